"""Custom providers: the two of the page are asked, understood and believed as it says, and nothing else is."""

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import logging
import socket
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import urlencode

import aiohttp
import msgspec
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from protocol.call import CallState, End, Evidence, HangupCause, Moved, Outcome, Progress, Status, advance
from server.providers import custom
from server.providers.custom import Custom, CustomSecrets, CustomSettings
from server.providers.custom_calls import without_secrets
from server.providers.provider import (
    CallReference,
    Heard,
    Order,
    Placed,
    PlacementRefused,
    Provider,
    Recording,
    Refusal,
    Reply,
    Seat,
    Told,
    Uncertain,
    Unsupported,
    Webhook,
    WebhookRefused,
)
from server.ssrf import guarded_session
from tests.clouds.cloud import Cloud, Story, WebhookRequestSpec
from tests.clouds.cloud import Sequence as Deliveries
from tests.clouds.custom import AUDIO, TALKED, Bellbird, Vendor, Yunhu, bellbird_cloud, described, yunhu_cloud

TAG = "call_0123456789abcdef"
NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)

OUTCOMES: dict[Story, tuple[Outcome, HangupCause | None]] = {
    "answered": (Outcome.CONNECTED, HangupCause.NORMAL_CLEARING),
    "no_answer": (Outcome.MISSED, HangupCause.NO_ANSWER),
    "busy": (Outcome.BUSY, HangupCause.USER_BUSY),
    "rejected": (Outcome.REJECTED, HangupCause.CALL_REJECTED),
    "invalid": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
}


class Line[C]:
    """placeholder"""
