"""`dialdesk dev`: everything on one machine, with nothing installed beforehand.

PostgreSQL, Valkey and S3 from wheels, secrets made once and kept in the data folder, migrations, web nodes and a worker
as child processes that end with this one, and a demo tenant in which a simulated phone takes a call.
"""

import asyncio
import base64
import ipaddress
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from server.config import Config, read_config
from server.passwords import Passwords
from storage import accounts, installation
from storage.audit import Actor
from storage.database import Connection, open_database
from storage.embedded import running
from storage.migrate import migrate
from storage.supervisor import die_with_parent

READY_DEADLINE = 60.0
"""Seconds that a child has to say that it is ready."""

STOP_DEADLINE = 45.0
"""Seconds that a child has to drain and end."""


class DevError(Exception):
    """The development system cannot run; the text says why and what to do."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `dialdesk dev` was asked for."""

    host: str
    port: int
    data: Path
    web: int
    lan: bool
    demo: bool
    demo_password: str | None


async def dev(options: Options, say: Callable[[str], None]) -> None:
    """Run until SIGINT or SIGTERM. `say` tells people what happens, a line at a time.

    Raises DevError or EmbeddedError where something cannot start, or ends while it should run.
    """
    stop = asyncio.Event()
    for signalled in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signalled, stop.set)
    async with AsyncExitStack() as stack:
        try:
            (options.data / "log").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DevError(f"--data {options.data} cannot be used: {error.strerror}") from error
        _demand_free_ports(options)
        kept = _kept_secrets(options.data, options.demo_password)
        environ = await stack.enter_async_context(_environment(options, kept, say))
        config = read_config(environ)
        say("migrating the database")
        await migrate(config.database_url)
        await _people(config, kept, options)
        origins, children = [], []
        for number in range(options.web):
            node = {**environ, "PORT": str(options.port + number), "NODE_NAME": f"web-{number + 1}"}
            children.append(await stack.enter_async_context(_child("serve", node, options.data)))
            origins.append((await children[-1].ready()).removeprefix("ready "))
            say(f"ready {origins[-1]}")
        worker = {**environ, "NODE_NAME": "worker-1"}
        children.append(await stack.enter_async_context(_child("work", worker, options.data)))
        await children[-1].ready()
        for line in _welcome(origins, kept["DEMO_PASSWORD"], options):
            say(line)
        if options.demo:
            await stack.enter_async_context(_demo(origins[-1], kept["DEMO_PASSWORD"], options, environ))
        stopped = asyncio.create_task(stop.wait())
        ends = [asyncio.create_task(child.ended()) for child in children]
        await asyncio.wait([stopped, *ends], return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            if end.done() and not stopped.done():
                raise end.result()
            end.cancel()
        say("stopping")


def _demand_free_ports(options: Options) -> None:
    """Find an occupied port before everything else is started."""
    host = _lan_address() if options.lan else options.host
    for port in range(options.port, options.port + options.web):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise DevError(f"{host}:{port} cannot be listened on: {error.strerror}; give another --port") from error


@asynccontextmanager
async def _environment(
    options: Options, kept: dict[str, str], say: Callable[[str], None]
) -> AsyncIterator[dict[str, str]]:
    """The environment of the nodes: what is given, and for what is not, servers and secrets of our own."""
    given = dict(os.environ)
    host = _lan_address() if options.lan else options.host
    scheme = "https" if options.lan else "http"
    environ = {**kept, **given, "HOST": host, "PUBLIC_URL": f"{scheme}://{host}:{options.port}"}
    if options.lan:
        environ |= _certificate(options.data, host)
    own = {
        "postgres": "DATABASE_URL" not in given,
        "valkey": "REDIS_URL" not in given,
        "s3": "S3_ENDPOINT_URL" not in given,
    }
    say(f"starting {', '.join(name for name, ours in own.items() if ours) or 'no servers of its own'}")
    async with running(options.data, postgres=own["postgres"], valkey=own["valkey"], s3=own["s3"]) as servers:
        if own["postgres"]:
            environ["DATABASE_URL"] = servers.database_url
        if own["valkey"]:
            environ["REDIS_URL"] = servers.redis_url
        if own["s3"]:
            environ |= {
                "S3_ENDPOINT_URL": servers.s3_endpoint_url,
                "S3_BUCKET": servers.s3_bucket,
                "S3_ACCESS_KEY": servers.s3_access_key,
                "S3_SECRET_KEY": servers.s3_secret_key,
                "RECORDINGS": given.get("RECORDINGS", "s3"),
            }
        yield environ


def _kept_secrets(data: Path, password: str | None) -> dict[str, str]:
    """Secrets that must be the same at the next start: made once, readable by their owner only."""
    path = data / "dialdesk.json"
    kept = msgspec.json.decode(path.read_bytes(), type=dict[str, str]) if path.exists() else {}
    wanted = {
        "SECRET_KEY": secrets.token_urlsafe(48),
        "MASTER_KEYS": f"dev:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "DEMO_PASSWORD": secrets.token_urlsafe(9),
        **kept,
    }
    if password is not None:
        wanted["DEMO_PASSWORD"] = password
    if wanted != kept:
        draft = path.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_bytes(msgspec.json.encode(wanted))
        draft.replace(path)
    return wanted


def _lan_address() -> str:
    """The address by which phones of this network reach this machine. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1, RFC 5737: routed by default, reached by nobody
            address: str = probe.getsockname()[0]
        except OSError as error:
            raise DevError("this machine has no network for --lan; give --host the address of one") from error
    if ipaddress.ip_address(address).is_loopback:
        raise DevError("this machine has no network beyond itself for --lan")
    return address


def _certificate(data: Path, host: str) -> dict[str, str]:
    """A certificate for `host` by an authority of our own, made once an address; phones must trust ca.pem."""
    try:
        import trustme  # noqa: PLC0415 - of the extra `embedded`
    except ModuleNotFoundError as error:
        raise DevError("--lan needs the extra `embedded`: pip install 'dialdesk[embedded]'") from error
    folder = data / "tls" / host
    chain, key, authority = folder / "chain.pem", folder / "key.pem", folder / "ca.pem"
    if not key.exists():
        folder.mkdir(parents=True, exist_ok=True)
        maker = trustme.CA()
        made = maker.issue_cert(host)
        maker.cert_pem.write_to_path(str(authority))
        for number, part in enumerate(made.cert_chain_pems):
            part.write_to_path(str(chain), append=number > 0)
        key.touch(mode=0o600)
        made.private_key_pem.write_to_path(str(key))
    return {"TLS_CERT": str(chain), "TLS_KEY": str(key), "DEMO_CA": str(authority)}


class _Child:
    """One process of ours: its log goes to a file, and its line `ready …` to whoever waits for it."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self._name = name
        self._process = process
        self._log = log
        self._ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.create_task(self._follow(), name=name)

    async def ready(self) -> str:
        """Wait for the line and return it. Raises DevError with the last words of a child that does not say it."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._ready), READY_DEADLINE)
        except TimeoutError as error:
            raise DevError(f"{self._name} is not ready after {READY_DEADLINE:g} s:\n{self._last_words()}") from error

    async def ended(self) -> DevError:
        """Wait until the process has ended, which it does not do by itself while all is well."""
        code = await asyncio.shield(self._ended)
        return DevError(f"{self._name} ended with code {code}:\n{self._last_words()}")

    async def stop(self) -> None:
        """Ask it to drain and end, and kill it where it does not."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            await asyncio.wait_for(asyncio.shield(self._ended), STOP_DEADLINE)
        except TimeoutError:
            self._process.kill()
            await self._ended

    async def _follow(self) -> int:
        assert self._process.stdout is not None
        with self._log.open("ab") as log:
            async for line in self._process.stdout:
                log.write(line)
                log.flush()
                if line.startswith(b"ready ") and not self._ready.done():
                    self._ready.set_result(line.decode().strip())
        code = await self._process.wait()
        if not self._ready.done():
            self._ready.set_exception(DevError(f"{self._name} ended with code {code}:\n{self._last_words()}"))
        return code

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])


@asynccontextmanager
async def _child(command: str, environ: dict[str, str], data: Path) -> AsyncIterator[_Child]:
    """Run `python -m server <command>` in a session of its own, so that Ctrl-C reaches only us; it ends with us."""
    name = environ["NODE_NAME"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "server",
        command,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=1024 * 1024,
        start_new_session=True,
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
    )
    child = _Child(name, process, data / "log" / f"{name}.log")
    try:
        yield child
    finally:
        await child.stop()


@asynccontextmanager
async def _demo(origin: str, password: str, options: Options, environ: dict[str, str]) -> AsyncIterator[None]:
    """A simulated phone, bound to agent2 by a real QR code, and one call on it, told on this terminal."""
    arguments = ["--origin", origin, "--username", "agent2", "--store", str(options.data / "demo-phone")]
    if "DEMO_CA" in environ:
        arguments += ["--ca", environ["DEMO_CA"]]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clients",
        "demo",
        *arguments,
        env={**os.environ, "DIALDESK_PASSWORD": password},
        start_new_session=True,
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
    )
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_DEADLINE)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _people(config: Config, kept: dict[str, str], options: Options) -> None:
    """The people of the installation, made at its first start: the demo's, or one system administrator."""
    actor = Actor(kind="system", id="dev", tenant_id=None)
    async with open_database(config.database_url, max_size=2) as database:
        with Passwords() as passwords:
            hashed = await passwords.hash(kept["DEMO_PASSWORD"])
        async with database.transaction() as connection:
            if not options.demo:
                await _have_user(connection, actor, None, "admin", "system_admin", hashed, options)
                return
            tenant_id = await installation.tenant_by_code(connection, "demo")
            if tenant_id is None:
                tenant_id = await accounts.create_tenant(connection, actor, code="demo", name="Demo")
                usual = await accounts.get_tenant(connection, tenant_id, lock=True)
                tried_at_any_hour = msgspec.structs.replace(usual, calling_from="00:00", calling_to="24:00")
                await accounts.change_tenant(connection, actor, usual, tried_at_any_hour, "update")
            for username, role in (("admin", "tenant_admin"), ("agent1", "agent"), ("agent2", "agent")):
                await _have_user(connection, actor, tenant_id, username, role, hashed, options)


async def _have_user(
    connection: Connection,
    actor: Actor,
    tenant_id: str | None,
    username: str,
    role: str,
    password_hash: str,
    options: Options,
) -> None:
    """Make the user where it is missing; give it the password where one was asked for."""
    known = await installation.user_by_name(connection, username)
    if known is not None and known[1] != tenant_id:
        raise DevError(
            f"{options.data} was made {'with' if options.demo else 'without'} --no-demo: start it so again,"
            " or give another folder with --data"
        )
    if known is None:
        await accounts.create_user(
            connection,
            actor,
            tenant_id,
            username=username,
            name=username,
            role=role,
            password_hash=password_hash,
            must_change_password=False,
        )
    elif options.demo_password is not None:
        await installation.set_password(connection, username, password_hash)


def _welcome(origins: list[str], password: str, options: Options) -> list[str]:
    """What a newcomer is told once everything runs."""
    first = origins[0]
    users = "admin, agent1, agent2" if options.demo else "admin"
    return [
        "",
        f"  desk           {first}/",
        f"  phone page     {first}/phone",
        f"  console        {first}/console",
        f"  API            {first}/api/docs",
        f"  WebSocket      {first.replace('http', 'ws', 1)}/ws/agent and /ws/phone",
        f"  users          {users}",
        f"  password       {password}",
        f"  data           {options.data.resolve()}",
        "  stop           Ctrl-C",
        "",
    ]
