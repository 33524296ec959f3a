"""robots.txt after RFC 9309: what it says to one crawler, and a cache that fetches each file once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from cachetools import TLRUCache
from protego import Protego

# RFC 9309, 2.5 and 2.4: parse at least 500 KiB, cache for at most a day.
MAX_BYTES = 500 * 1024
LIFETIME_S = 24 * 3600.0
# A site that could not be asked is asked again sooner.
FAILURE_LIFETIME_S = 300.0
CACHE_BYTES = 64 * 2**20
# Memory of an entry: its own objects, and some 45 times the text (measured on long lists of rules).
ENTRY_BYTES, BYTES_PER_CHARACTER = 2_000, 45


class Robots:
    """What one origin's robots.txt says to the crawler with the product token `token`."""

    def __init__(self, text: str, token: str) -> None:
        self.token = token
        self.size_bytes = ENTRY_BYTES + BYTES_PER_CHARACTER * len(text)
        self._rules = Protego.parse(text.removeprefix("\ufeff"))
        self.crawl_delay_s = max(self._rules.crawl_delay(token) or 0.0, 0.0)

    def allows(self, url: str) -> bool:
        """Whether a URL of this origin may be fetched: the longest rule decides, `allow` where two tie."""
        return bool(self._rules.can_fetch(url, self.token))


@dataclass(frozen=True, kw_only=True, slots=True)
class NoRobots:
    """robots.txt could not be had, so that nothing may be fetched; the state says why."""

    state: Literal["transient", "gone", "private_address"]
    message: str
    size_bytes: int = ENTRY_BYTES


class RobotsCache:
    """The robots.txt of many origins, for one event loop: each fetched once, however many wait for it."""

    def __init__(self, load: Callable[[str], Awaitable[Robots | NoRobots]]) -> None:
        self._load = load
        self._loading: dict[str, asyncio.Task[Robots | NoRobots]] = {}
        self._known: TLRUCache[str, Robots | NoRobots] = TLRUCache(
            CACHE_BYTES, ttu=_expiry, timer=time.monotonic, getsizeof=lambda found: found.size_bytes
        )

    async def of(self, origin: str) -> Robots | NoRobots:
        """What the origin (`https://example.org`) says, fetched or remembered."""
        found = self._known.get(origin)
        if found is not None:
            return found
        if origin not in self._loading:
            self._loading[origin] = asyncio.create_task(self._remember(origin))
        # Others wait for the same answer: one who gives up does not take it from them.
        return await asyncio.shield(self._loading[origin])

    async def _remember(self, origin: str) -> Robots | NoRobots:
        try:
            self._known[origin] = found = await self._load(origin)
            return found
        finally:
            del self._loading[origin]


def _expiry(_origin: str, found: Robots | NoRobots, now: float) -> float:
    return now + (LIFETIME_S if isinstance(found, Robots) else FAILURE_LIFETIME_S)
