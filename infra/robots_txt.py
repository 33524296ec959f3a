"""robots.txt after RFC 9309: its rules for one crawler, and a cache that fetches each file once.

Written by hand because the libraries turn a rule's wildcards into a backtracking regular expression: one line
of a hostile file then stops a worker for hours.  Here a rule costs time linear in the path.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from cachetools import TLRUCache

# RFC 9309, 2.5 and 2.4: parse at least 500 KiB, cache for at most a day.
MAX_BYTES = 500 * 1024
LIFETIME_S = 24 * 3600.0
# A site that could not be asked is asked again sooner.
FAILURE_LIFETIME_S = 300.0
CACHE_BYTES = 64 * 2**20
BYTES_PER_ENTRY = 500
PRODUCT_TOKEN = re.compile(r"[a-zA-Z_-]*")
UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True)
class Rule:
    """Whether paths that match `pattern` may be fetched; `*` is any run of characters, a last `$` the end."""

    pattern: str
    allow: bool

    def matches(self, path: str) -> bool:
        anchored = self.pattern.endswith("$")
        first, *rest = self.pattern.removesuffix("$").split("*")
        if not path.startswith(first):
            return False
        at = len(first)
        if not rest:
            return not anchored or at == len(path)
        last = rest.pop() if anchored else ""
        for part in rest:  # each at its earliest place, which leaves most for the next
            at = path.find(part, at)
            if at < 0:
                return False
            at += len(part)
        return path.endswith(last) and len(path) - len(last) >= at


@dataclass(frozen=True, kw_only=True, slots=True)
class Robots:
    """What one origin says to one crawler: rules, the longest first, and seconds between requests."""

    rules: tuple[Rule, ...] = ()
    crawl_delay_s: float = 0.0

    def allows(self, path: str) -> bool:
        """Whether a path with its query may be fetched: the longest rule decides, `allow` where two tie."""
        path = _normal(path)
        return next((rule.allow for rule in self.rules if rule.matches(path)), True)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoRobots:
    """robots.txt could not be had, so that nothing may be fetched; the state says why."""

    state: Literal["transient", "gone", "private_address"]
    message: str


def parse_robots(text: str, token: str) -> Robots:
    """The groups that name the product token (in any case), or else those for `*`, as one."""
    groups: dict[str, tuple[list[Rule], list[float]]] = {}
    names: list[str] = []
    in_header = False
    for line in text.removeprefix("\ufeff").splitlines():
        field, colon, value = line.partition("#")[0].partition(":")
        field, value = field.strip().lower(), value.strip()
        if not colon:
            continue
        if field == "user-agent":
            names = names if in_header else []
            names.append("*" if value.startswith("*") else _product_token(value))
            in_header = True
            groups.setdefault(names[-1], ([], []))
        elif field in ("allow", "disallow", "crawl-delay"):
            in_header = False
            for name in names:
                _add(groups[name], field, value)
    rules, delays = groups.get(token.lower()) or groups.get("*") or ([], [])
    ranked = sorted(set(rules), key=lambda rule: (-len(rule.pattern), not rule.allow, rule.pattern))
    return Robots(rules=tuple(ranked), crawl_delay_s=max(delays, default=0.0))


class RobotsCache:
    """The robots.txt of many origins, for one event loop: each fetched once, however many wait for it."""

    def __init__(self, load: Callable[[str], Awaitable[Robots | NoRobots]]) -> None:
        self._load = load
        self._loading: dict[str, asyncio.Task[Robots | NoRobots]] = {}
        self._known: TLRUCache[str, Robots | NoRobots] = TLRUCache(
            CACHE_BYTES, ttu=_expiry, timer=time.monotonic, getsizeof=_size
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


def _add(group: tuple[list[Rule], list[float]], field: str, value: str) -> None:
    rules, delays = group
    if field != "crawl-delay":
        if value:  # an empty rule forbids nothing
            rules.append(Rule(_normal(value), field == "allow"))
    elif re.fullmatch(r"\d{1,9}(\.\d*)?", value, re.ASCII):
        delays.append(float(value))


def _product_token(value: str) -> str:
    """`unclip` of `Unclip/1.0`."""
    found = PRODUCT_TOKEN.match(value)
    return found.group().lower() if found else ""


def _normal(path: str) -> str:
    """One spelling for equal paths: escapes in capitals, none for what needs none, the rest escaped."""
    path = re.sub("%[0-9a-fA-F]{2}", _normal_escape, path)
    return quote(path, safe=PRINTABLE)


def _normal_escape(escape: re.Match[str]) -> str:
    character = chr(int(escape.group()[1:], 16))
    return character if character in UNRESERVED else escape.group().upper()


def _expiry(_origin: str, found: Robots | NoRobots, now: float) -> float:
    return now + (LIFETIME_S if isinstance(found, Robots) else FAILURE_LIFETIME_S)


def _size(found: Robots | NoRobots) -> int:
    """Bytes in memory, about."""
    rules = found.rules if isinstance(found, Robots) else ()
    return BYTES_PER_ENTRY + sum(150 + len(rule.pattern) for rule in rules)
