"""Where nodes and workers come from: a process that has imported the server, and forks whatever command is asked for.

What importing costs is paid once a run, not once a node, and passwords are hashed at no cost, where each sign-in would
take half a second of a core. All else is as after `python -m server`: a process and an environment of its own, the same
`main`, the same signals and the same end.
"""

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

PATIENT = 100.0
"""Seconds that importing may take; it takes one where nothing else is going on."""

LONGEST = 200_000
"""Bytes that a request may have."""


def fork(command: str, environ: Mapping[str, str], output: int, life: int) -> None:
    """Have `dialdesk <command>` run; takes both file descriptors. What it prints goes to `output`, what it complains of
    where we complain; to `life` two lines are written, its process id when it begins, and its exit code at its end."""
    try:
        socket.send_fds(_nursery(), [json.dumps([command, dict(environ)]).encode()], [output, 2, life])
    finally:
        os.close(output)
        os.close(life)


@cache
def _nursery() -> socket.socket:
    """The way to the run's own, which ends with it; returns when that has imported the server."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
    atexit.register(process.wait)
    atexit.register(ours.close)  # before the wait: what is registered last is done first
    ours.settimeout(PATIENT)
    assert ours.recv(1), "the server cannot be imported"
    ours.settimeout(None)
    return ours


def _serve(asked: socket.socket) -> list[str]:
    """Fork for each request until nobody can ask; returns in what was forked, with the words of its command."""
    while True:
        request, passed, _, _ = socket.recv_fds(asked, LONGEST, 3)
        if not request:
            os._exit(0)  # there is nothing to end in order
        if os.fork() == 0:
            asked.close()
            _fork_and_watch(*passed)
            command, environ = json.loads(request)
            os.environ.clear()
            os.environ.update(environ)
            return [command]
        for descriptor in passed:
            os.close(descriptor)


def _fork_and_watch(output: int, complaints: int, life: int) -> None:
    """Fork once more. Returns in the new process alone: this one tells how that begins and ends, and ends itself."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if (pid := os.fork()) == 0:
        os.dup2(output, 1)
        os.dup2(complaints, 2)
        for descriptor in (output, complaints, life):
            os.close(descriptor)
        return
    try:
        os.closerange(1, life)  # whoever reads them hears the end of the command, not of who watches it
        os.write(life, b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(life, b"%d\n" % os.waitstatus_to_exitcode(status))
    finally:
        os._exit(0)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])
    from argon2 import PasswordHasher

    import server.app
    from server.__main__ import main
    from server.passwords import Passwords

    light = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    server.app.Passwords = partial(Passwords, light)  # type: ignore[attr-defined, assignment]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who only watches is not waited for
    gc.collect()
    gc.freeze()  # so that pages stay shared
    asked = socket.socket(fileno=int(sys.argv[1]))
    asked.send(b"!")
    main(_serve(asked))
