"""The command line: `dialdesk dev|serve|work|migrate|check|reseal|token|user|recordings`."""

import asyncio
import base64
import gc
import os
import secrets
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import uvloop

from protocol.errors import DialdeskError
from server import VERSION
from server.app import web_node, worker_node
from server.check import check
from server.config import Config, ConfigError, read_config
from server.dev import DevError, Options, dev
from server.people import add_user, disable_user, mint_token, reset_password
from server.reseal import reseal
from server.serve import Server
from server.telemetry import configure_logging
from server.verify import verification
from storage.embedded import EmbeddedError
from storage.migrate import MigrationError, migrate
from storage.objects import StoreError

T = TypeVar("T")

_ROLES = ("tenant_admin", "operator", "supervisor", "agent", "viewer", "auditor")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="dialdesk")
def main() -> None:
    """Dialdesk: realtime call control for work phones and cloud lines.

    `dialdesk dev` runs everything on this machine. In production `migrate`, `serve` and `work` read what they need
    from the environment; docs/configuration.md lists it.
    """


@main.command("dev")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65000), help="Port of the first node.")
@click.option(
    "--data", default=".dialdesk", show_default=True, type=click.Path(path_type=Path), help="Where all is kept."
)
@click.option("--web", default=1, show_default=True, type=click.IntRange(1, 16), help="Web nodes, on ports P, P+1, ….")
@click.option("--lan", is_flag=True, help="Serve real handsets: the LAN address, TLS with a local certificate.")
@click.option("--no-demo", is_flag=True, help="No demo tenant; one system_admin named `admin`.")
@click.option("--demo-password", envvar="DEMO_PASSWORD", help="Password of the demo users; made and printed otherwise.")
def dev_command(
    host: str, port: int, data: Path, web: int, lan: bool, no_demo: bool, demo_password: str | None
) -> None:
    """Run everything on one machine, with nothing installed beforehand."""
    if demo_password is not None and not 8 <= len(demo_password) <= 128:
        _fail("--demo-password must have 8 to 128 characters")
    options = Options(host=host, port=port, data=data, web=web, lan=lan, demo=not no_demo, demo_password=demo_password)
    configure_logging("auto", "warning")
    _run(dev(options, click.echo))


@main.command("serve")
def serve_command() -> None:
    """Serve HTTP and WebSockets: one web node. SIGTERM drains it."""
    config = _config()
    _run(_serve(config))


@main.command("work")
def work_command() -> None:
    """Do the chores: close lost calls, sweep dead nodes, tidy up. Any number may run."""
    config = _config()
    _run(_work(config))


@main.command("migrate")
def migrate_command() -> None:
    """Bring the database to the schema of this version. Safe to run from several machines at once."""
    config = _config()
    click.echo(asyncio.run(_told(migrate(config.database_url))) or "up to date")


@main.command("check")
def check_command() -> None:
    """Tell what is wrong with the configuration and whether each dependency answers; exits 1 if anything is amiss."""
    config = _config()
    if not asyncio.run(_check(config)):
        sys.exit(1)


@main.command("reseal")
def reseal_command() -> None:
    """Seal all secrets under the first of MASTER_KEYS; exits 1 if any cannot be opened.

    After a key was put first and every node was started with it; then the others may be dropped. Safe to run beside
    nodes, and again.
    """
    if not asyncio.run(_told(_reseal(_config()))):
        sys.exit(1)


@main.group("token")
def token_group() -> None:
    """Make keys and tokens."""


@token_group.command("key")
@click.argument("key_id", default="k1")
def token_key(key_id: str) -> None:
    """Make a key for MASTER_KEYS (32 random bytes) named KEY_ID."""
    click.echo(f"{key_id}:{base64.b64encode(secrets.token_bytes(32)).decode()}")


@token_group.command("secret")
def token_secret() -> None:
    """Make a value for SECRET_KEY."""
    click.echo(secrets.token_urlsafe(48))


@token_group.command("access")
@click.argument("username")
def token_access(username: str) -> None:
    """Mint an access token for USERNAME, to try the API with. It is written to the audit log."""
    click.echo(asyncio.run(_told(mint_token(_config(), username))))


@main.group("user")
def user_group() -> None:
    """Manage users from the server, where nobody can sign in yet or any more."""


@user_group.command("add")
@click.argument("username")
@click.option("--tenant", help="Code of the tenant; made where it is missing. Without it a system_admin is made.")
@click.option("--role", type=click.Choice(_ROLES), default="tenant_admin", show_default=True)
@click.option("--name", help="The name people see; the user name where it is not given.")
def user_add(username: str, tenant: str | None, role: str, name: str | None) -> None:
    """Add a user and print a password, which must be changed at the first sign-in."""
    click.echo(asyncio.run(_told(add_user(_config(), username, tenant, role, name or username))))


@user_group.command("reset-password")
@click.argument("username")
def user_reset_password(username: str) -> None:
    """Print a new password for USERNAME, which must be changed at the first sign-in; all its sessions end."""
    click.echo(asyncio.run(_told(reset_password(_config(), username))))


@user_group.command("disable")
@click.argument("username")
def user_disable(username: str) -> None:
    """Disable USERNAME: sockets close, tokens are revoked, phones unbound; records stay."""
    asyncio.run(_told(disable_user(_config(), username)))
    click.echo(f"{username} is disabled")


@main.group("recordings")
def recordings_group() -> None:
    """Look after recordings."""


@recordings_group.command("verify")
@click.option("--tenant", "tenant_id", metavar="ID", help="Only the recordings of this tenant.")
@click.option("--deep", is_flag=True, help="Read every recording to its end and compare its SHA-256.")
def recordings_verify(tenant_id: str | None, deep: bool) -> None:
    """Compare recordings with what is in the stores; a line for each that is not as it should be, and exit 1 then.

    Nothing is changed. On a terminal progress is told on standard error, and at the end how many were compared.
    """
    if not asyncio.run(_told(_verify(_config(), tenant_id, deep))):
        sys.exit(1)


async def _serve(config: Config) -> None:
    async with web_node(config) as node:
        gc.collect()
        gc.freeze()  # what stays is not looked through again and again: that held up every session for 100 ms
        server = Server(config, node.app, node.hub, ready=lambda url: print(f"ready {url}", flush=True))
        await server.run_until_left()


async def _work(config: Config) -> None:
    async with worker_node(config) as worker:
        print(f"ready {config.node_name}", flush=True)
        await _until_signal(worker.run())


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Work until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        working.result()
    working.cancel()
    await asyncio.wait([working])


async def _check(config: Config) -> bool:
    well = True
    async for finding in check(config):
        click.echo(f"{'ok  ' if finding.well else 'FAIL'}  {finding.subject:<11} {finding.seen}")
        well = well and finding.well
    return well


async def _reseal(config: Config) -> bool:
    unopened = []
    async for done in reseal(config):
        click.echo(f"{done.kind:<15} {done.anew} sealed anew")
        unopened += done.unopened
    for secret in unopened:
        click.echo(f"not opened      {secret}")
    return not unopened


async def _verify(config: Config, tenant_id: str | None, deep: bool) -> bool:
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""

    def progress(looked_at: int) -> None:
        if clear:
            click.echo(f"{clear}{looked_at} compared", err=True, nl=False)

    async with verification(config, tenant_id=tenant_id, deep=deep, progress=progress) as verify:
        discrepancies = 0
        async for found in verify.run():
            discrepancies += 1
            click.echo(clear, err=True, nl=False)
            click.echo(f"{found.kind:<11} {found.place} {found.key} {found.call_id or '-'} {found.reason}".rstrip())
        click.echo(f"{clear}{verify.looked_at} compared, {discrepancies} not as they should be", err=True)
    return discrepancies == 0


def _config() -> Config:
    try:
        config = read_config(os.environ)
    except ConfigError as error:
        _fail(str(error))
    configure_logging(config.log_format, config.log_level)
    return config


def _run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_told(work))


async def _told(work: Coroutine[Any, Any, T]) -> T:
    """Do the work; what it refuses is told in a line, not as a traceback."""
    try:
        return await work
    except (ConfigError, DevError, EmbeddedError, MigrationError, StoreError, DialdeskError) as error:
        cause = f" ({error.__cause__})" if isinstance(error, DialdeskError) and error.__cause__ else ""
        _fail(f"{error}{cause}")


def _fail(text: str) -> NoReturn:
    click.echo(f"dialdesk: {text}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
