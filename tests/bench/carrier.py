"""A child process that brings a file, and tells on its last line, as JSON, how long that took and what it cost itself.

It reads its task from stdin: a JSON object whose `to` is `dialdesk` or `boto3`. To Dialdesk it is as lean as a client
may be: the head of the form, the file by sendfile(2), and the end of the form, on a plain socket; no faster than a
`pace`, in bytes a second, where the task tells one. Time runs from before the connection until the answer is read; what
was imported and opened before does not count.
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

DEADLINE = 120.0
BLOCK = 64 * 1024


def main() -> None:
    """Do the task."""
    task = json.loads(sys.stdin.readline())
    bring = to_boto3(task) if task["to"] == "boto3" else to_dialdesk(task)
    print("ready", flush=True)
    spent = time.process_time()
    begin = time.perf_counter()
    brought = bring()
    seconds = time.perf_counter() - begin
    spent = time.process_time() - spent
    print(json.dumps({"brought": brought, "seconds": seconds, "cpu": spent}), flush=True)


def to_boto3(task: dict[str, Any]) -> Callable[[], int]:
    """`upload_file`, as it is told to be used, with its own defaults."""
    import boto3  # type: ignore[import-untyped]

    client = boto3.client("s3", **task["client"])

    def bring() -> int:
        client.upload_file(task["path"], task["bucket"], task["key"], ExtraArgs={"ContentType": task["media_type"]})
        return 1

    return bring


def to_dialdesk(task: dict[str, Any]) -> Callable[[], int]:
    """The recordings of `calls`, `at_once` at a time, until there are no more or stdin is closed; the first of them
    begin `apart` seconds one after the other."""
    calls: list[str] = task["calls"]
    over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()

    def bring() -> int:
        if task["until_closed"]:
            threading.Thread(target=wait_for_the_end, daemon=True).start()
        brought: list[str] = []
        failures: list[BaseException] = []

        def one_by_one(wait: float) -> None:
            time.sleep(wait)
            try:
                while calls and not over.is_set():
                    call_id = calls.pop()
                    upload(task, call_id)
                    brought.append(call_id)
            except BaseException as failure:
                failures.append(failure)
                raise

        waits = [number * task["apart"] for number in range(task["at_once"])]
        threads = [threading.Thread(target=one_by_one, args=(wait,)) for wait in waits]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return len(brought)

    return bring


def upload(task: dict[str, Any], call_id: str) -> None:
    """Bring a recording whole. Raises RuntimeError unless it is kept."""
    path = Path(task["path"])
    boundary = "carrier-boundary"
    part = f"--{boundary}\r\nContent-Disposition: form-data; name="
    before = f'{part}"callId"\r\n\r\n{call_id}\r\n{part}"file"; filename="a{path.suffix}"\r\n\r\n'.encode()
    after = f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Host": "dialdesk",
        "Connection": "close",
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": len(before) + path.stat().st_size + len(after),
        "X-Content-SHA256": task["sha256"],
        **task["headers"],
    }
    head = "POST /api/v1/calls/mobile/recording/upload HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", task["port"]), DEADLINE) as line, path.open("rb") as file:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(head.encode() + b"\r\n" + before)
        send(line, file, task["pace"])
        line.sendall(after)
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(answer.decode())


def send(line: socket.socket, file: BinaryIO, pace: float) -> None:
    """Send a file, no faster than the pace; 0 is as fast as it goes."""
    if not pace:
        line.sendfile(file)
        return
    begin = time.perf_counter()
    while line.sendfile(file, file.tell(), BLOCK):
        time.sleep(max(0.0, begin + file.tell() / pace - time.perf_counter()))


if __name__ == "__main__":
    main()
