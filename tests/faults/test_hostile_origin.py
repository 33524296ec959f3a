"""An origin that means harm: every row ends in its state, in bounded memory, whatever is sent.

The real shard worker (`acquire_shard`, without Ray) against a socket that sends raw bytes.  Nothing asserts
on the clock: what hung would be ended by the test runner's own limit.
"""

from __future__ import annotations

import asyncio
import io
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.store import Store
from pipelines.acquire.config import AcquireConfig, AcquireResources, BlockListFiles, FetchConfig, ImageConfig
from pipelines.acquire.door import DoorSource
from pipelines.acquire.shard import ShardJob, acquire_shard
from tests.infra.wire import Wire, response, serving

CAP = 200_000
TOTAL_S, IDLE_S = 4.0, 2.0
OK = b"HTTP/1.1 200 OK\r\n"
GZIP, DEFLATE = "Content-Encoding: gzip", "Content-Encoding: deflate"
NAMES = (
    "/a/../../../etc/passwd",
    "/..%2f..%2fetc/passwd",
    "/%00%0a%0d",
    "/a?b=../../c&d=%2e%2e",
    "/é 漢字'\"<>",
)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture()


def compressed(body: bytes, window: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, window)
    return packer.compress(body) + packer.flush()


def huge_png(side: int) -> bytes:
    """A PNG whose header claims `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


WINDOW_GZIP, WINDOW_ZLIB, WINDOW_RAW = 31, 15, -15
BOMB = compressed(bytes(100_000_000), WINDOW_GZIP)
SENT = {
    "/fine": response(PICTURE),
    "/huge": response(huge_png(100_000)),
    "/announced": OK + b"Content-Length: 99999999999\r\n\r\n",
    "/cut": OK + f"Content-Length: {len(PICTURE) + 10}\r\n\r\n".encode() + PICTURE,
    "/longer": OK + f"Content-Length: {len(PICTURE) // 2}\r\n\r\n".encode() + PICTURE,
    "/negative": OK + b"Content-Length: -1\r\n\r\n" + PICTURE,
    "/two-lengths": OK + b"Content-Length: 5\r\nContent-Length: 9\r\n\r\n" + PICTURE,
    "/no-http": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "/loop": response(b"", "Location: /loop", status="302 Found"),
    "/circle-a": response(b"", "Location: /circle-b", status="307 There"),
    "/circle-b": response(b"", "Location: /circle-a", status="307 Here"),
    "/metadata": response(b"", "Location: http://169.254.169.254/latest", status="302 Found"),
    "/file": response(b"", "Location: file:///etc/passwd", status="302 Found"),
    "/nonsense": response(b"", "Location: http://[::", status="302 Found"),
    "/gzip": response(compressed(PICTURE, WINDOW_GZIP), GZIP),
    "/deflate": response(compressed(PICTURE, WINDOW_ZLIB), DEFLATE),
    "/raw-deflate": response(compressed(PICTURE, WINDOW_RAW), DEFLATE),
    "/bomb": response(BOMB, GZIP),
    "/no-gzip": response(PICTURE, GZIP),
    "/cut-gzip": response(compressed(PICTURE, WINDOW_GZIP)[:-20], GZIP),
    "/brotli": response(PICTURE, "Content-Encoding: br"),
}
STATES = {
    "/fine": ("success", None),
    "/huge": ("too_large", "pixels"),
    "/announced": ("too_large", "99999999999 bytes announced"),
    "/cut": ("transient", "ClientPayloadError"),
    "/longer": ("transient", ""),  # the rest is no next response
    "/negative": ("transient", "ClientResponseError"),
    "/two-lengths": ("transient", "ClientResponseError"),
    "/no-http": ("transient", "ClientResponseError"),
    "/loop": ("gone", "more than 3 redirects"),
    "/circle-a": ("gone", "more than 3 redirects"),
    "/metadata": ("private_address", "169.254.169.254"),
    "/file": ("refused_by_policy", "file:///etc/passwd"),
    "/nonsense": ("refused_by_policy", "http://[::"),
    "/gzip": ("success", None),
    "/deflate": ("success", None),
    "/raw-deflate": ("success", None),
    "/bomb": ("too_large", f"more than {CAP} bytes"),
    "/no-gzip": ("decode_error", "damaged compressed body"),
    "/cut-gzip": ("decode_error", "ends early"),
    "/brotli": ("decode_error", "Content-Encoding 'br'"),
    "/drip": ("timeout", f"not finished after {TOTAL_S:g} s"),
    "/drip-head": ("timeout", f"not finished after {TOTAL_S:g} s"),
    "/silent": ("timeout", f"idle for {IDLE_S:g} s"),
    "/endless": ("too_large", f"more than {CAP} bytes"),
    "/endless-head": ("transient", ""),
    "/endless-gzip": ("too_large", f"more than {CAP} bytes"),
} | dict.fromkeys(NAMES, ("success", None))


async def answer(path: str, writer: asyncio.StreamWriter) -> None:
    """Misbehave as the path says; what is not written down is a picture."""
    if path == "/robots.txt":
        writer.write(response(b"", status="404 Not Found"))
    elif path == "/silent":
        await asyncio.sleep(600)
    elif path.startswith("/drip"):
        writer.write(OK if path == "/drip-head" else OK + b"Content-Length: 5000\r\n\r\n")
        for _ in range(5000):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(IDLE_S / 20)
    elif path.startswith("/endless"):
        await endless(path, writer)
    else:
        writer.write(SENT.get(path, SENT["/fine"]))
        if path not in STATES or STATES[path][0] != "success":
            await writer.drain()
            writer.close()


async def endless(path: str, writer: asyncio.StreamWriter) -> None:
    """Send until the client has had enough."""
    block = b"x" * 10_000
    writer.write(OK)
    if path == "/endless-head":
        block = b"X-Padding: " + block + b"\r\n"
    elif path == "/endless-gzip":
        writer.write(b"Content-Encoding: gzip\r\n\r\n" + compressed(b"", WINDOW_GZIP)[:10])
        block = b"\x00\x00\x00\xff\xff" * 2_000  # empty stored blocks: nothing comes of them, for ever
    else:
        writer.write(b"\r\n")
    while not writer.is_closing():
        writer.write(block)
        await writer.drain()


def acquire(wire: Wire, folder: Path, paths: list[str]) -> dict[str, dict[str, Any]]:
    """One shard of these paths; its Parquet rows by path."""
    urls = [f"http://127.0.0.1:{wire.port}{path}" for path in paths]
    job = ShardJob(
        draft=Store(folder).draft("corpus", "hostile"),
        index=0,
        table=pa.table({"url": urls}),
        config=AcquireConfig(
            url_list="unused.parquet",
            shard_size=max(len(paths), 2),
            fetch=FetchConfig(
                total_timeout_s=TOTAL_S,
                idle_timeout_s=IDLE_S,
                max_bytes=CAP,
                max_redirects=3,
                retries=0,
                allow_private=("127.0.0.1",),
            ),
            image=ImageConfig(size=64),
        ),
        resources=AcquireResources(shards_in_flight=1),
        door=DoorSource.of(BlockListFiles(), folder / "store"),
    )
    account = acquire_shard(job)
    rows = pq.read_table(job.draft.path / "00000.parquet").to_pylist()
    assert account.total == len(rows) == len(paths)
    return dict(zip(paths, rows, strict=True))


def test_every_row_ends_in_its_state(tmp_path: Path) -> None:
    with serving(answer) as wire:
        rows = acquire(wire, tmp_path, list(STATES))
    wrong = [
        (path, row["status"], row["error_message"])
        for path, row in rows.items()
        if row["status"] != STATES[path][0] or (STATES[path][1] or "") not in (row["error_message"] or "")
    ]
    assert not wrong


def test_names_from_urls_never_become_paths(tmp_path: Path) -> None:
    with serving(answer) as wire:
        acquire(wire, tmp_path, list(NAMES))
    shard = next(tmp_path.rglob("00000.tar"))
    with tarfile.open(shard) as archive:
        keys = {f"00000{row}.{kind}" for row in range(len(NAMES)) for kind in ("jpg", "json", "txt")}
        assert set(archive.getnames()) == keys
    assert {path.name for path in shard.parent.iterdir()} == {
        "00000.tar",
        "00000.parquet",
        "00000_fetch.arrow",
        "_shards",
        "_work",
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/bomb", "/endless", "/endless-gzip", "/huge"])
def test_memory_stays_bounded(path: str, tmp_path: Path) -> None:
    with serving(answer) as wire:
        acquire(wire, tmp_path / "warm_up", ["/fine", "/fine?again"])
        tracemalloc.start()
        rows = acquire(wire, tmp_path, [path])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert rows[path]["status"] == "too_large"
    assert peak < 20 * CAP  # the server's own buffers are in it; the bomb inflates to 500 times the cap
