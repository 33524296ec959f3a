"""A server that sends exactly the bytes it is told to: what no HTTP library would let an origin do."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class Wire:
    """Answers every request by `answer(path, writer)`; keeps each path's moments and request headers."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.port = 0
        self.hits: Counter[str] = Counter()
        self.moments: dict[str, list[float]] = {}
        self.headers: dict[str, str] = {}
        self.connections = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                path = head.split(" ", 2)[1]
                self.hits[path] += 1
                self.moments.setdefault(path, []).append(asyncio.get_running_loop().time())
                lines = [line.partition(": ") for line in head.split("\r\n")[1:]]
                self.headers = {name.lower(): value for name, _, value in lines if name}
                await self.answer(path, writer)
                await writer.drain()
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the client has gone, or the block has ended
        finally:
            writer.close()


@contextmanager
def serving(answer: Answer) -> Iterator[Wire]:
    """Serve on a free port of loopback, from a thread, for the length of the block."""
    wire, loop, ready = Wire(answer), asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()

    async def main() -> None:
        server = await asyncio.start_server(wire.connected, "127.0.0.1", 0)
        wire.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield wire
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A well-formed response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
