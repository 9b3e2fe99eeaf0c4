"""A real S3 server on this machine, and a proxy that drops connections to it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty prefix in a bucket."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    name = f"bucket-{os.urandom(4).hex()}"
    client.create_bucket(Bucket=name)
    yield f"s3://{name}/team/home"
    client.close()


class Proxy:
    """Passes bytes on to a server; the first `cuts` connections that carry more than `after` bytes are reset."""

    def __init__(self, target: str, *, cuts: int, after: int) -> None:
        self._target = target.removeprefix("http://").split(":")
        self._cuts, self._after, self.num_cut = cuts, after, 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        with suppress(OSError):  # the listening socket is shut at the end
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection((self._target[0], int(self._target[1])))
                for source, to in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._pass_on, args=(source, to, source is near), daemon=True)
                    thread.start()
                    self._threads.append(thread)
                del near, far

    def _pass_on(self, source: socket.socket, to: socket.socket, outgoing: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(65536):
                passed += len(data)
                if outgoing and self.num_cut < self._cuts and passed > self._after:
                    self.num_cut += 1
                    break
                to.sendall(data)
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join()
