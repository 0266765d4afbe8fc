"""Run one command that never outlives whoever asked for it.

`embedded.py` starts this file as a script, `python -I -S supervisor.py`: standard library only, up in 20 ms. Standard
input is the lifeline:

1. one line of JSON, a `Command`;
2. then silence for as long as the command shall run. End of file means that the parent wants an end, or has met its
   own, be it by SIGKILL: the stop signal goes to the command, and SIGKILL `patience` seconds later. A line `kill` means
   SIGKILL at once.

The exit code is the command's, or 128 + n where signal n ended it. Should this process itself be killed, Linux kills
the command with it.
"""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO, NotRequired, TypedDict

PR_SET_PDEATHSIG = 1  # prctl(2)


class Command(TypedDict):
    """What to run, and how to end it."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    stdin: NotRequired[
        str
    ]  #: all there is for it to read; neither `ps` nor the disk shows it, so it may hold a password
    user: NotRequired[tuple[int, int] | None]  #: uid and gid to run it with; only root can
    stop_signal: int
    patience: float  #: seconds, for the command to heed the stop signal and for a predecessor to be gone
    lock: str  #: a file: held by the command and all its descendants, and holding the command's pid
    pid_file: NotRequired[str]  #: where it notes its pid, and looks at start for that of another
    leftovers: NotRequired[list[str]]  #: files it is known to leave behind, to be removed after it


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Heard, not obeyed: the parent alone knows the order in which servers stop. A function rather than SIG_IGN,
        # which the command would inherit.
        signal.signal(number, lambda *_: None)
    lifeline = open(0, "rb", buffering=0)  # noqa: SIM115 - as long as this process
    request = lifeline.readline()
    if not request:
        return 0
    command: Command = json.loads(request)
    lock = claim(command["lock"], command["patience"])
    if "pid_file" in command:
        forget(lock, Path(command["pid_file"]))
    uid, gid = command.get("user") or (None, None)
    child = subprocess.Popen(
        command["argv"],
        cwd=command["cwd"],
        env=command["env"],
        stdin=subprocess.PIPE,
        stdout=sys.stderr,
        stderr=sys.stderr,
        user=uid,
        group=gid,
        extra_groups=None if gid is None else [],
        pass_fds=[lock],
        preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - there is no other thread yet
    )
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(child.pid).encode(), 0)
    threading.Thread(target=obey, args=(lifeline, child, command), daemon=True).start()
    child.communicate(command.get("stdin", "").encode())
    for path in command.get("leftovers", []):
        Path(path).unlink(missing_ok=True)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def claim(path: str, patience: float) -> int:
    """Lock the file at `path`; wait for what is left of an earlier command, as after a SIGKILL of its parent."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                pid = os.pread(lock, 20, 0).decode()
                sys.exit(f"process {pid} of an earlier start still runs: end it, then start again")
            time.sleep(0.02)
        else:
            return lock


def forget(lock: int, pid_file: Path) -> None:
    """Remove a pid file that names the last holder of the lock, who is gone now that the lock is ours.

    The command would take its zombie, or whoever has that number today, for the holder alive.
    """
    if pid_file.exists() and pid_file.read_bytes().split()[:1] == [os.pread(lock, 20, 0)]:
        pid_file.unlink()


def obey(lifeline: BinaryIO, child: subprocess.Popen[bytes], command: Command) -> None:
    """Wait for the order to end, and end the child. Runs in a thread that ends with the process."""
    if lifeline.readline() != b"kill\n":
        child.send_signal(command["stop_signal"])
        time.sleep(command["patience"])
    child.kill()


def die_with_parent() -> None:
    """Ask Linux to kill the calling process when its parent dies. Between fork and exec, after a change of user."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
