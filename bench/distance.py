"""A service that is further away: whatever is sent to it, or comes from it, arrives later.

``python -m bench.distance PORT TARGET MILLISECONDS`` listens on loopback until it is killed.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

from buildtools.sandbox import process


async def serve(port: int, target: int, seconds: float) -> None:
    """Hand on every connection to the target."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(carry(reader, far_writer, seconds), carry(far_reader, writer, seconds))

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    await server.serve_forever()


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """All that comes, in its order, so many seconds later."""
    loop = asyncio.get_running_loop()
    while data := await reader.read(1 << 16):
        loop.call_later(seconds, writer.write, data)
    loop.call_later(seconds, writer.close)


@contextmanager
def distance(target: int, milliseconds: float) -> Iterator[int]:
    """A port where the HTTP service at ``target`` is reached, each way in so many milliseconds."""
    (port,) = process.free_ports(1)
    arguments = [str(port), str(target), str(milliseconds)]
    program = subprocess.Popen([sys.executable, "-m", "bench.distance", *arguments])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/v2/").close()
                break
            except URLError:
                if time.monotonic() > deadline:
                    raise
        yield port
    finally:
        program.kill()
        program.wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
