"""Reading a response's body under a byte cap, decompressing on the way where the origin compressed it.

We ask for `identity`; some origins compress all the same.  A body that inflates itself stops at the cap, so
that a bomb costs no more memory than an honest file of that size.
"""

from __future__ import annotations

import zlib
from typing import Any

import aiohttp

IDENTITY = frozenset({"", "identity"})
GZIP = frozenset({"gzip", "x-gzip"})
# zlib's window sizes: with a gzip header, with a zlib header, with none.
GZIP_WINDOW, ZLIB_WINDOW, RAW_WINDOW = 31, 15, -15


class BodyTooLargeError(Exception):
    """A body, as sent or as decompressed, is larger than the cap."""


class BodyEncodingError(Exception):
    """A body is compressed in a way that was not asked for and cannot be undone."""


async def read_body(response: aiohttp.ClientResponse, max_bytes: int, *, cut: bool = False) -> bytes:
    """The whole body, decompressed; with `cut`, its first `max_bytes` where it is longer.

    Raises `BodyTooLargeError` (unless `cut`) whatever length was announced, and `BodyEncodingError`.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if not cut and (response.content_length or 0) > max_bytes:
        raise BodyTooLargeError(f"{response.content_length} bytes announced, expected at most {max_bytes}")
    body, received, inflater = bytearray(), 0, None
    async for block in response.content.iter_any():
        received += len(block)
        if encoding not in IDENTITY:
            inflater = inflater or _inflater(encoding, block)
            block = _inflate(inflater, block, max_bytes + 1 - len(body))
        body += block
        # What arrives counts too: a stream may be compressed to nothing at all, for ever.
        if len(body) > max_bytes or received > max_bytes:
            if cut:
                return bytes(body[:max_bytes])
            raise BodyTooLargeError(f"more than {max_bytes} bytes")
        if inflater is not None and inflater.eof:
            break  # what follows belongs to nothing
    if inflater is not None and not inflater.eof:
        raise BodyEncodingError(f"Content-Encoding {encoding}: ends early")
    return bytes(body)


def _inflater(encoding: str, first_block: bytes) -> Any:
    if encoding in GZIP:
        return zlib.decompressobj(GZIP_WINDOW)
    if encoding == "deflate":
        # RFC 9110 means zlib's format; some origins send it without its header, whose low bits are 8.
        return zlib.decompressobj(ZLIB_WINDOW if first_block[0] & 0x0F == 8 else RAW_WINDOW)
    raise BodyEncodingError(f"Content-Encoding {encoding[:40]!r}, expected identity, gzip or deflate")


def _inflate(inflater: Any, block: bytes, at_most: int) -> bytes:
    try:
        return bytes(inflater.decompress(block, at_most))
    except zlib.error as error:
        raise BodyEncodingError(f"damaged compressed body: {error}") from None
