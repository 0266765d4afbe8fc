"""The only wiring: opens what lives long, hands it on."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Literal

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from protocol.errors import DialdeskError
from server.admin import Admin
from server.agents import Agents
from server.api_keys import ApiKeys
from server.archive import Archive
from server.auth import Auth
from server.board import Board
from server.calls import Calls
from server.config import Config, master_keys
from server.controls import Controls
from server.customers import Customers
from server.devices import Devices
from server.do_not_call import DoNotCall
from server.explain import Explain
from server.export import Export
from server.extension_leases import ExtensionLeases
from server.extensions import Extensions
from server.fetch import open_fetcher
from server.health import Health
from server.hook_delivery import open_hook_delivery
from server.hooks import Hooks
from server.http import Endpoint, Http
from server.hub import Hub
from server.infinity_calls import InfinityCalls
from server.infinity_channels import InfinityChannels
from server.infinity_configs import InfinityConfigs
from server.intake import Intake
from server.lately import Lately
from server.lease import Lease
from server.line_config import open_accounts
from server.line_health import LineHealth
from server.lines import Lines
from server.pages import page_routes
from server.passwords import Passwords
from server.placing import Placing
from server.presence import Presences
from server.reconciling import Reconciling
from server.recordings import Recordings
from server.records import Records
from server.relay import Relay
from server.resend import resend
from server.retrieval import Retrieval
from server.routes import documents, routes
from server.session import Sessions
from server.statistics import Statistics
from server.stores import open_stores
from server.telemetry import Metrics
from server.trial_numbers import TrialNumbers
from server.uploads import Uploads
from server.users import Users
from server.webhooks import Reading, Webhooks
from server.wheel import Wheel
from server.worker import Worker
from storage.database import Database, open_database
from storage.live import Live, RedisClient, open_redis
from storage.tenant_keys import TenantKeys
from storage.vault import Vault

log = structlog.get_logger()


class Node(msgspec.Struct, frozen=True):
    """A web node that is up: serve `app`, and drain `hub` before the end."""

    app: ASGIApp
    hub: Hub
    lease: Lease
    endpoints: list[Endpoint]


@asynccontextmanager
async def web_node(config: Config) -> AsyncIterator[Node]:
    """Open a web node: its connections, its lease and what it does in the background, all ended on leaving."""
    metrics = Metrics()
    async with (
        _database(config, config.database_pool) as database,
        _database(config, 1) as lease_database,  # its own: a storm on the others must not cost the node its lease
        _redis(config) as redis,
        AsyncExitStack() as stack,
    ):
        with Passwords() as passwords:
            lease = _lease(lease_database, metrics, config, "web")
            relay = _relay(redis, lease, metrics, config)
            hub = Hub(metrics, bound=config.max_sessions)
            relay.connect(hub)
            lease.on_lost(hub.lose_all)
            lease.on_held(hub.speak_again)
            wheel = Wheel(tick=min(1.0, config.probe_after / 25))
            vault = Vault(master_keys(config))
            live = Live(redis, config.redis_prefix)
            calls = Calls(database, relay, metrics, config)
            devices = Devices(database, relay, vault, live, config, calls)
            auth = Auth(database, live, relay, passwords, config)
            tenant_keys = TenantKeys(vault)
            accounts = await stack.enter_async_context(open_accounts(config, tenant_keys))
            line_health = LineHealth(database, accounts, metrics)
            placing = Placing(database, accounts, calls, line_health, metrics)
            calls.connect(placing)
            stack.push_async_callback(placing.stop)
            stores = await stack.enter_async_context(open_stores(config, database, tenant_keys))
            intake = Intake(database, stores, relay, metrics, config)
            uploads = Uploads(database, intake, config)
            agents = Agents(database, hub, lease, metrics, refill_every=config.refill)
            presences = Presences(database, relay, lease, hub, resend_after=config.resend_after)
            sessions = Sessions(
                database=database,
                auth=auth,
                calls=calls,
                uploads=uploads,
                presences=presences,
                agents=agents,
                hub=hub,
                wheel=wheel,
                lease=lease,
                vault=vault,
                metrics=metrics,
                config=config,
            )
            endpoints = routes(
                auth=auth,
                admin=Admin(database, relay, passwords),
                users=Users(database, relay, passwords, devices),
                api_keys=ApiKeys(database, relay),
                hooks=Hooks(database, tenant_keys, config),
                devices=devices,
                calls=calls,
                records=Records(database),
                statistics=Statistics(database),
                board=Board(database),
                export=Export(database, live),
                uploads=uploads,
                recordings=Recordings(database, stores, config),
                customers=Customers(database),
                lines=(lines := Lines(database, accounts, live)),
                channels=InfinityChannels(database, accounts, live),
                infinity_configs=InfinityConfigs(database, accounts, lines),
                line_health=line_health,
                controls=Controls(database, accounts),
                extensions=Extensions(database),
                infinity_calls=InfinityCalls(calls),
                do_not_call=DoNotCall(database),
                trial_numbers=TrialNumbers(database),
                explain=Explain(database),
                lately=Lately(database),
                webhooks=Webhooks(database, accounts, live, metrics),
                config=config,
                health=Health(database, relay, lease, hub, metrics, config),
            )
            endpoints += documents(endpoints, config.public_url)
            http = Http(
                database,
                auth.authenticate,
                metrics,
                body_limit=config.body_limit,
                timeout=config.request_timeout,
                idle=config.upload_idle,
            )
            pages = Starlette(
                routes=[*http.routes(endpoints), *page_routes(config)],
                middleware=[_cors(config)] if config.allowed_origins else [],
            )
            pages.router.default = http.not_found
            pages.router.redirect_slashes = False

            async def app(scope: Scope, receive: Receive, send: Send) -> None:
                await (sessions if scope["type"] == "websocket" else pages)(scope, receive, send)

            await lease.take()
            async with _background(
                lease.keep,
                relay.publish,
                relay.sing,
                lambda: relay.subscribe(agents.behind_all),
                wheel.run,
                presences.write,
                agents.refill,
                lambda: resend(database, hub, lease, metrics, every=config.sweep, resend_after=config.resend_after),
                lambda: _check_phones(presences, hub, wheel, config.heartbeat_interval),
                lambda: _watch_loop(metrics),
            ):
                yield Node(app, hub, lease, endpoints)
                await presences.flush()
                await relay.carry()
            await lease.give_up()


@asynccontextmanager
async def worker_node(config: Config) -> AsyncIterator[Worker]:
    """Open a worker: `run` it. It holds a lease as web nodes do, which tells whether it may judge others."""
    metrics = Metrics()
    async with (
        _database(config, config.database_pool) as database,
        _database(config, 1) as lease_database,  # its own: a storm on the others must not cost the node its lease
        _redis(config) as redis,
        open_fetcher(config) as fetcher,
        AsyncExitStack() as stack,
    ):
        lease = _lease(lease_database, metrics, config, "worker")
        relay = _relay(redis, lease, metrics, config)
        calls = Calls(database, relay, metrics, config)
        vault = Vault(master_keys(config))
        tenant_keys = TenantKeys(vault)
        stores = await stack.enter_async_context(open_stores(config, database, tenant_keys))
        intake = Intake(database, stores, relay, metrics, config)
        archive = Archive(database, stores, intake, metrics, config)
        retrieval = Retrieval(database, vault, fetcher, intake, lease=config.fetch_timeout + config.settle_after)
        accounts = await stack.enter_async_context(open_accounts(config, tenant_keys))
        reading = Reading(database, accounts, calls, retrieval, metrics)
        reconciling = Reconciling(database, accounts, calls, reading, metrics)
        line_health = LineHealth(database, accounts, metrics)
        extension_leases = ExtensionLeases(database, accounts, longest=config.reap_talk)
        hook_delivery = await stack.enter_async_context(open_hook_delivery(config, database, tenant_keys, metrics))
        await lease.take()
        async with _background(lease.keep, relay.publish):
            yield Worker(
                database,
                relay,
                lease,
                calls,
                archive,
                retrieval,
                hook_delivery,
                reading,
                reconciling,
                extension_leases,
                line_health,
                metrics,
                config,
            )
            await relay.carry()
        await lease.give_up()


def _lease(database: Database, metrics: Metrics, config: Config, kind: Literal["web", "worker"]) -> Lease:
    return Lease(
        database, metrics, name=config.node_name, kind=kind, length=config.lease, renew_every=config.lease_renew
    )


def _relay(redis: RedisClient, lease: Lease, metrics: Metrics, config: Config) -> Relay:
    return Relay(
        redis,
        config.redis_prefix,
        lambda: lease.boot_id,
        metrics,
        canary_every=config.canary,
        deaf_after=config.deaf_after,
    )


def _cors(config: Config) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=list(config.allowed_origins),
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "X-Request-Id",
            "Accept-Language",
            "Range",
            "If-Range",
            "If-None-Match",
            "X-Content-SHA256",
        ],
        expose_headers=[
            "X-Request-Id",
            "Retry-After",
            "Content-Range",
            "Accept-Ranges",
            "ETag",
            "Content-Disposition",
            "X-Row-Count",
        ],
    )


def _database(config: Config, size: int) -> AbstractAsyncContextManager[Database]:
    return open_database(
        config.database_url,
        max_size=size,
        timeout=config.database_timeout,
        statement_cache=config.database_statement_cache,
    )


@asynccontextmanager
async def _redis(config: Config) -> AsyncIterator[RedisClient]:
    redis = open_redis(config.redis_url)
    try:
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def _background(*chores: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Do the chores while the block runs. One that fails ends the process: whoever runs it starts it afresh."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_awaited(chore)) for chore in chores]
        try:
            yield
        finally:
            pending = set(tasks)
            while pending:  # a library may swallow a cancellation that meets a timeout of its own: ask again
                for task in pending:
                    task.cancel()
                _, pending = await asyncio.wait(pending, timeout=1)


async def _awaited(chore: Callable[[], Awaitable[None]]) -> None:
    await chore()


async def _check_phones(presences: Presences, hub: Hub, wheel: Wheel, every: float) -> None:
    """Write, for ever, when phones were last heard from; find sessions that are no longer the true ones."""
    while True:
        await asyncio.sleep(every)
        heard = [(device_id, link.epoch, link.last_heard()) for device_id, link in hub.phones()]
        try:
            await presences.check(wheel.now(), heard)
        except DialdeskError as error:
            log.warning("phones not checked", cause=repr(error.__cause__))


async def _watch_loop(metrics: Metrics) -> None:
    """Measure, for ever, how late the event loop is."""
    while True:
        asked = time.monotonic()
        await asyncio.sleep(0.5)
        metrics.loop_lag.observe(max(0.0, time.monotonic() - asked - 0.5))
