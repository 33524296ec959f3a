"""An origin that is no bottleneck: prepared responses from memory, over HTTP or HTTPS, in its own process.

    python -m tests.benchmarks.image_origin IMAGES.zip PORT [CERTIFICATE_AND_KEY.pem]

Serves every member of the archive at its name, whatever query follows, until it is ended; prints `ready`.
"""

from __future__ import annotations

import asyncio
import mimetypes
import ssl
import sys
import zipfile
from pathlib import Path
from typing import Any

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection: requests without a body, one after another."""

    def __init__(self, responses: dict[bytes, bytes]) -> None:
        self.responses = responses
        self.received = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, _, self.received = self.received.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].partition(b"?")[0]
            self.transport.write(self.responses.get(path, NOT_FOUND))
            if b"connection: close" in head.lower():
                self.transport.close()


def prepared(archive: Path) -> dict[bytes, bytes]:
    """Whole responses by path."""
    responses = {}
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            body = opened.read(name)
            kind = mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream"
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            responses[f"/{name}".encode()] = head.encode() + body
    return responses


async def serve(archive: Path, port: int, certificate: Path | None) -> None:
    responses = prepared(archive)
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(responses), "127.0.0.1", port, ssl=context, backlog=2048
    )
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None))
