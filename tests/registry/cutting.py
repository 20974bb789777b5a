"""A TCP proxy before a real registry that breaks connections where it is told."""

from __future__ import annotations

import re
import socket
import threading
from typing import Self

_ASKED = re.compile(rb"^(GET|HEAD|PUT|POST|PATCH) (\S+) HTTP", re.MULTILINE)
_RANGE = re.compile(rb"^Range: bytes=(\d+)-", re.MULTILINE | re.IGNORECASE)


class Cutting:
    """Passes bytes on; after `limit` bytes from the registry it dies until `revive()`.

    `upload_cuts` are numbers of bytes to the registry (one after the other, each counted from
    the last cut) after which one connection is broken. `asked` are the requests that were
    seen: method, path and where their range begins.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.limit: int | None = None
        self.upload_cuts: list[int] = []
        self.asked: list[tuple[str, str, int]] = []
        self.passed = 0
        self._sent = 0
        self._dead = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._die()

    def revive(self, limit: int | None = None) -> None:
        """Serve again, for that many bytes."""
        with self._lock:
            self.passed, self.limit, self._dead = 0, limit, False

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._dead:
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._open |= {near, far}
            threading.Thread(target=self._up, args=(near, far), daemon=True).start()
            threading.Thread(target=self._down, args=(far, near), daemon=True).start()

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        try:
            while data := near.recv(65536):
                for found in _ASKED.finditer(data):
                    begin = _RANGE.search(data, found.start())
                    self.asked.append(
                        (found[1].decode(), found[2].decode(), int(begin[1]) if begin else 0)
                    )
                self._sent += len(data)
                if self.upload_cuts and self._sent >= self.upload_cuts[0]:
                    self.upload_cuts.pop(0)
                    self._sent = 0
                    break
                far.sendall(data)
        except OSError:
            pass
        self._close(near, far)

    def _down(self, far: socket.socket, near: socket.socket) -> None:
        try:
            while data := far.recv(16384):
                with self._lock:
                    if self.limit is not None:
                        data = data[: max(0, self.limit - self.passed)]
                    self.passed += len(data)
                    over = self.limit is not None and self.passed >= self.limit
                near.sendall(data)
                if over:
                    self._dead = True
                    self._die()
                    return
        except OSError:
            pass
        self._close(near, far)

    def _die(self) -> None:
        for connection in list(self._open):
            self._close(connection)

    def _close(self, *connections: socket.socket) -> None:
        for connection in connections:
            self._open.discard(connection)
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()
