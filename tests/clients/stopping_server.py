"""A server that stops at the one moment that no real one can be told to: as a stream has just reached it."""

from __future__ import annotations

import socket
import struct
import threading
import time
from types import TracebackType
from typing import BinaryIO, Self

_PREFACE_BYTES = len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
_HEADERS, _SETTINGS, _GOAWAY = 1, 4, 7


class StoppingServer:
    """`with StoppingServer() as server:` takes one connection and waits for a stream on it. Then it is gone.

    It listens no more, and says with its GOAWAY that it has seen no stream at all.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.target = f"127.0.0.1:{self.port}"
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        self._listener.settimeout(10)
        connection, _ = self._listener.accept()
        connection.settimeout(10)
        with connection, connection.makefile("rb") as received:
            received.read(_PREFACE_BYTES)
            connection.sendall(_frame(_SETTINGS))
            while _kind_of_next(received) != _HEADERS:
                pass
            self._listener.close()
            time.sleep(0.05)  # until the client has begun all that it does at the start of a stream
            connection.sendall(_frame(_GOAWAY, struct.pack(">II", 0, 0)))  # last stream seen, error
            self._left.wait()  # to hang up at once could take the GOAWAY back


def _frame(kind: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 for the whole connection, without flags."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + struct.pack(">I", 0) + payload


def _kind_of_next(received: BinaryIO) -> int:
    head = received.read(9)
    received.read(int.from_bytes(head[:3], "big"))
    return head[3]
