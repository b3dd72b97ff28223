"""The load generator: callers that each send their next request when the last was answered. A process of its own.

    python -m tests.bench.load TARGET METHOD REQUESTS CALLERS SECONDS

REQUESTS is a file of serialised requests, each after its length in four bytes; they are sent as they are, so that the
generator, which shares the cores with the server, costs little more than gRPC itself. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from grpc import aio

from tests.bench.ceiling import percentiles


def write_requests(path: Path, requests: Sequence[bytes]) -> None:
    """Writes the file that `main` reads."""
    path.write_bytes(b"".join(struct.pack("<I", len(request)) + request for request in requests))


def read_requests(path: Path) -> list[bytes]:
    """Reads what `write_requests` wrote."""
    data, at, requests = path.read_bytes(), 0, []
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        requests.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return requests


async def drive(target: str, method: str, requests: list[bytes], callers: int, seconds: float) -> dict[str, float]:
    """Calls per second and latencies."""
    took: list[float] = []
    async with aio.insecure_channel(target) as channel:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        await asyncio.gather(*(call(requests[i % len(requests)]) for i in range(callers)))
        began = time.perf_counter()

        async def caller(number: int) -> None:
            at = number
            while (sent := time.perf_counter()) - began < seconds:
                await call(requests[at % len(requests)])
                took.append(time.perf_counter() - sent)
                at += callers

        await asyncio.gather(*(caller(number) for number in range(callers)))
        elapsed = time.perf_counter() - began
    return {"per_s": len(took) / elapsed, **percentiles(took)}


def main() -> None:
    target, method, path, callers, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(drive(target, method, read_requests(Path(path)), int(callers), float(seconds)))))


if __name__ == "__main__":
    main()
