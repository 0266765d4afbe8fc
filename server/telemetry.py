"""What operators see: structured logs on stdout and Prometheus metrics."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_PHONE_IN_TEXT = re.compile(r"(?<![\w.:-])(\+?\d{3})(\d{4,8})(\d{4})(?![\w.:-])")


class Metrics:
    """The numbers of one process, each made here and nowhere else; docs/operate.md explains them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.http_seconds = Histogram(
            "dialdesk_http_request_seconds",
            "Time to answer a request",
            ["endpoint", "status"],
            buckets=_FAST,
            registry=registry,
        )
        self.sessions = Gauge("dialdesk_sessions", "Open WebSockets", ["kind"], registry=registry)
        self.session_closes = Counter(
            "dialdesk_session_closes_total", "Closed WebSockets", ["kind", "code"], registry=registry
        )
        self.messages = Counter("dialdesk_messages_total", "Messages received", ["kind", "type"], registry=registry)
        self._heard: dict[tuple[str, str], Counter] = {}
        self.outbox_drops = Counter(
            "dialdesk_outbox_drops_total", "Peers closed because they did not read", registry=registry
        )
        self.relay_sent = Counter("dialdesk_relay_sent_total", "Messages given to another node", registry=registry)
        self.relay_dropped = Counter(
            "dialdesk_relay_dropped_total", "Messages not carried; rows bring them", registry=registry
        )
        self.relay_seconds = Histogram(
            "dialdesk_relay_seconds", "Canary time through Redis and back", buckets=_FAST, registry=registry
        )
        self.relay_deaf = Counter("dialdesk_relay_deaf_total", "Times the subscriber was found deaf", registry=registry)
        self.dials = Counter(
            "dialdesk_dials_total", "Dials asked for, by what became of them", ["result"], registry=registry
        )
        self.calls_ended = Counter(
            "dialdesk_calls_ended_total", "Ended calls", ["outcome", "closed_by"], registry=registry
        )
        self.reports = Counter("dialdesk_reports_total", "Reports by what they changed", ["effect"], registry=registry)
        self.orders = Counter(
            "dialdesk_orders_total", "Orders to providers by their answer", ["provider", "answer"], registry=registry
        )
        self.webhooks = Counter(
            "dialdesk_webhooks_total", "Messages of providers", ["provider", "result"], registry=registry
        )
        self.line_health = Counter(
            "dialdesk_line_health_total", "Lines by what became of their health", ["health"], registry=registry
        )
        self.look_ups = Counter(
            "dialdesk_look_ups_total", "Calls looked up at providers", ["provider", "result"], registry=registry
        )
        self.uploads = Counter(
            "dialdesk_uploads_total", "Recordings that were brought", ["source", "result"], registry=registry
        )
        self.upload_bytes = Counter(
            "dialdesk_upload_bytes_total", "Bytes of recordings that were stored", registry=registry
        )
        self.recordings = Counter(
            "dialdesk_recordings_total", "Recordings by what a worker did with them", ["done"], registry=registry
        )
        self.hook_deliveries = Counter(
            "dialdesk_hook_deliveries_total", "Attempts to send webhooks, by result", ["result"], registry=registry
        )
        self.hook_seconds = Histogram(
            "dialdesk_hook_seconds", "Time that receivers of hooks take", buckets=_FAST, registry=registry
        )
        self.resends = Counter("dialdesk_command_resends_total", "Commands sent again", registry=registry)
        self.refills = Counter(
            "dialdesk_event_refills_total", "Events read from rows for a page with a gap", registry=registry
        )
        self.loop_lag = Histogram(
            "dialdesk_loop_lag_seconds", "Delay of the event loop", buckets=_FAST, registry=registry
        )
        self.lease_lost = Counter("dialdesk_lease_lost_total", "Leases of this node that were swept", registry=registry)
        self.chores = Counter(
            "dialdesk_chores_total", "Rounds of the worker's chores", ["chore", "result"], registry=registry
        )

    def heard(self, kind: str, message: str) -> None:
        """Count a message that came by a socket. Its counter is looked up once: this is done for every message."""
        counter = self._heard.get((kind, message))
        if counter is None:
            counter = self._heard[kind, message] = self.messages.labels(kind, message)
        counter.inc()

    def render(self) -> bytes:
        """Return the text exposition format."""
        return generate_latest(self.registry)


def configure_logging(style: Literal["auto", "json", "console"], level: str) -> None:
    """Log to stdout: readable on a terminal, JSON lines elsewhere; the standard library's loggers join in."""
    pretty = style == "console" or (style == "auto" and sys.stdout.isatty())
    threshold = getattr(logging, level.upper())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        mask_numbers,
    ]
    finish: list[Any] = (
        [structlog.dev.ConsoleRenderer()]
        if pretty
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
    )
    structlog.configure(
        processors=[*shared, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)


def mask_numbers(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Star the middle of anything in a log line that looks like a phone number."""
    for key, value in event.items():
        if isinstance(value, str) and key != "timestamp":
            event[key] = _PHONE_IN_TEXT.sub(lambda found: f"{found[1]}{'*' * len(found[2])}{found[3]}", value)
    return event


def _to_json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
