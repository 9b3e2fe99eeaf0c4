"""A proxy between a client and a server that breaks connections off, or lets bytes through slowly."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress

CHUNK = 4096


class BadNetwork:
    """Listens on a loopback port and passes on to `target`.

    Args:
        target: host and port of the server.
        cut_every: every so many-th connection is reset when the server has begun to answer; 0 resets none.
        bytes_per_second: at which a server's answers come; None does not hold them up.
    """

    def __init__(self, target: tuple[str, int], *, cut_every: int = 0, bytes_per_second: float | None = None) -> None:
        self._target, self._cut_every, self._bytes_per_second = target, cut_every, bytes_per_second
        self.num_connections = self.num_cut = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def said(self) -> str:
        """What was done, in words."""
        return f"{self.num_connections} connections, {self.num_cut} broken off"

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join()

    def _accept(self) -> None:
        with suppress(OSError):  # the listening socket is shut at the end
            while True:
                near, _ = self._listening.accept()
                self.num_connections += 1
                is_cut = self._cut_every > 0 and self.num_connections % self._cut_every == 0
                far = socket.create_connection(self._target)
                threading.Thread(target=self._pass_on, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(far, near, is_cut), daemon=True).start()

    def _pass_on(self, source: socket.socket, to: socket.socket, is_cut: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if is_cut:
                    self.num_cut += 1
                    # No time to send what waits: the other side sees a reset, not an end.
                    to.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                if self._bytes_per_second is not None:
                    time.sleep(len(data) / self._bytes_per_second)
                to.sendall(data)
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
