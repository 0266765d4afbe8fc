"""`python -m clients phone` is a work phone, `python -m clients agent` a desk, each without a screen."""

import asyncio
import logging
import ssl
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, assert_never

import click
import msgspec

from clients.agent import AgentClient
from clients.api import Refused
from clients.behaviour import Behaviour, answers, is_busy, never_answers, rejects
from clients.connection import Stopped, trusting
from clients.demo import show
from clients.memory import Handset, Memory
from clients.phone import PhoneClient
from protocol.call import Evidence
from protocol.identifiers import new_id
from protocol.messages import (
    CallConnected,
    CallDialing,
    CallEnd,
    CallEnded,
    CallRinging,
    CallStatus,
    DialCommand,
    WelcomePhone,
)

LONGEST_WAIT = 5 * 3600.0
"""Seconds: longer than the four hours after which the server ends any call."""

_ca = click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Trust certificates signed by this one (PEM), as `dialdesk dev --lan` makes it.",
)


@click.group()
@click.option("--verbose", is_flag=True, help="Tell on standard error how the connection fares.")
def main(verbose: bool) -> None:
    """Speak to a Dialdesk server as a work phone, or as an agent's desk."""
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(asctime)s %(message)s")


@main.command()
@click.option("--qr", help="The text of the QR code that binds a phone.")
@click.option("--code", help="The eight characters to type instead; needs --origin.")
@click.option("--origin", help="Where the server is, such as https://desk.example.")
@click.option("--phone-number", default="", help="The number of this phone, as its agent will see it.")
@click.option("--device-id", help="The id of this handset; made up where it is not given.")
@click.option(
    "--store", type=click.Path(dir_okay=False, path_type=Path), help="Keep the binding and unsent reports here."
)
@click.option("--answer-after", default=2.0, show_default=True, help="Seconds of ringing until the customer answers.")
@click.option("--talk", default=5.0, show_default=True, help="Seconds of talk.")
@click.option(
    "--recording",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The audio file that stands for the recording of a talk.",
)
@click.option("--busy", "course", flag_value="busy", help="The customer's line is busy.")
@click.option("--never", "course", flag_value="never", help="Nobody answers.")
@click.option("--reject", "course", flag_value="reject", help="The customer declines.")
@_ca
def phone(
    qr: str | None,
    code: str | None,
    origin: str | None,
    phone_number: str,
    device_id: str | None,
    store: Path | None,
    answer_after: float,
    talk: float,
    recording: Path | None,
    course: str | None,
    ca: Path | None,
) -> None:
    """Be a work phone: bind by a code, or come back from the store, and dial what the server asks for."""
    behaviour = {
        None: answers(after=answer_after, talk=talk),
        "busy": is_busy(after=answer_after),
        "never": never_answers(rings_for=answer_after),
        "reject": rejects(after=answer_after),
    }[course]
    behaviour = msgspec.structs.replace(behaviour, recording=recording)
    handset = Handset(device_id=device_id or new_id("handset"), phone_number=phone_number)
    _run(_be_phone(qr or code, handset, behaviour, origin, store, _trust(ca)))


@main.command()
@click.option("--origin", required=True, help="Where the server is, such as https://desk.example.")
@click.option("--username", required=True)
@click.option("--password", envvar="DIALDESK_PASSWORD", required=True, help="Or DIALDESK_PASSWORD in the environment.")
@click.option("--call", "number", required=True, help="The number to call.")
@_ca
def agent(origin: str, username: str, password: str, number: str, ca: Path | None) -> None:
    """Be a desk: sign in, call a number, and tell how the call goes until it has ended."""
    _run(_be_agent(origin, username, password, number, _trust(ca)))


@main.command()
@click.option("--origin", required=True, help="Where the server is.")
@click.option("--username", required=True)
@click.option("--password", envvar="DIALDESK_PASSWORD", required=True, help="Or DIALDESK_PASSWORD in the environment.")
@click.option("--store", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The phone's memory.")
@_ca
def demo(origin: str, username: str, password: str, store: Path, ca: Path | None) -> None:
    """Show one call from both sides, with a phone that is bound here, and keep the phone online."""
    _run(show(origin, username, password, store, _trust(ca), _say))


async def _be_phone(
    code: str | None,
    handset: Handset,
    behaviour: Behaviour,
    origin: str | None,
    store: Path | None,
    tls: ssl.SSLContext | None,
) -> None:
    if code is not None:
        client = await PhoneClient.bind(code, handset, behaviour, origin=origin, store=store, tls=tls)
    elif store is not None:
        client = PhoneClient(Memory(store), behaviour, tls=tls)
    else:
        raise click.UsageError("Give --qr or --code to bind the phone, or --store where it was bound before.")
    async with client:
        await asyncio.gather(_tell_orders(client), _tell_reports(client), _tell_uploads(client))


async def _tell_orders(client: PhoneClient) -> None:
    async for envelope in client.heard:
        match envelope.message:
            case WelcomePhone():
                _say("online")
            case DialCommand(call_id=call_id, customer_phone=number):
                _say(f"asked to dial {number} ({call_id})")
            case _:
                pass  # the rest is between the app and the server


async def _tell_reports(client: PhoneClient) -> None:
    async for envelope in client.reported:
        match envelope.message:
            case CallStatus(status=status):
                _say(status)
            case CallEnd() as end:
                _say(f"ended: {end.status}{f', {end.hangup_cause}' if end.hangup_cause else ''}")
            case _:
                assert_never(envelope.message)


async def _tell_uploads(client: PhoneClient) -> None:
    async for envelope in client.uploaded:
        _say(f"recording of {envelope.message.call_id} uploaded: {envelope.message.size} bytes")


async def _be_agent(origin: str, username: str, password: str, number: str, tls: ssl.SSLContext | None) -> None:
    async with await AgentClient.login(origin, username, password, tls=tls) as client:
        await client.connect()
        call_id = await client.dial(customer_phone=number)
        _say(f"calling {number} ({call_id})")
        async with asyncio.timeout(LONGEST_WAIT):
            async for envelope in client.events:
                match envelope.message:
                    case CallDialing() | CallRinging() | CallConnected() as event if event.call_id == call_id:
                        _say(f"{event.type.removeprefix('CALL_').lower()}{_doubt(event.evidence)}")
                    case CallEnded() as end if end.call_id == call_id:
                        talk = f", {end.duration} s" if end.duration else ""
                        _say(f"ended: {end.status}, {end.hangup_cause}{talk}{_doubt(end.evidence)}")
                        return
                    case _:
                        pass  # of another call, or of a device


def _doubt(evidence: Evidence) -> str:
    return " (assumed)" if evidence is Evidence.ASSUMED else ""


def _trust(ca: Path | None) -> ssl.SSLContext | None:
    try:
        return None if ca is None else trusting(ca)
    except ssl.SSLError as error:
        raise click.BadParameter(f"{ca} holds no certificate: {error.reason}", param_hint="--ca") from error


def _say(line: str) -> None:
    click.echo(f"{datetime.now().astimezone():%H:%M:%S} {line}")


def _run(session: Coroutine[Any, Any, None]) -> None:
    """Run to the end; what the server or the network says no to is one line, not a traceback."""
    try:
        asyncio.run(session)
    except (Refused, Stopped, OSError, ValueError) as error:  # OSError: Unreachable and TimeoutError too
        raise click.ClickException(str(error) or type(error).__name__) from error


if __name__ == "__main__":
    main()
