"""Manners towards hosts: how many requests at a time, how far apart, and none before the host wants one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(slots=True)
class _Host:
    places: asyncio.Semaphore
    not_before: float = 0.0  # the loop's time
    users: int = 0


class HostTurns:
    """Turns at hosts, for one event loop: at most `at_a_time` held per host, begun `delay_s` seconds apart.

    A host nobody waits for is forgotten once its delay is over, so memory does not grow with their number.
    """

    def __init__(self, *, at_a_time: int, delay_s: float = 0.0) -> None:
        self.at_a_time = at_a_time
        self.delay_s = delay_s
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, host: str, delay_s: float = 0.0) -> AsyncIterator[None]:
        """Wait for a turn at `host` and hold it; `delay_s` is this request's own wish, the larger holds."""
        state = self._hosts.setdefault(host, _Host(asyncio.Semaphore(self.at_a_time)))
        state.users += 1
        try:
            async with state.places:
                await _wait(state, max(delay_s, self.delay_s))
                yield
        finally:
            state.users -= 1
            self._forget_if_idle(host)

    def hold_off(self, host: str, seconds: float) -> None:
        """Begin no turn at `host` for so many seconds; call it while holding one."""
        state = self._hosts[host]
        state.not_before = max(state.not_before, asyncio.get_running_loop().time() + seconds)

    def _forget_if_idle(self, host: str) -> None:
        state = self._hosts.get(host)
        if state is None or state.users:
            return
        loop = asyncio.get_running_loop()
        left_s = state.not_before - loop.time()
        if left_s > 0:
            loop.call_later(left_s, self._forget_if_idle, host)
        else:
            del self._hosts[host]


async def _wait(state: _Host, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    # Looked at again after each sleep: another request went first, or the host asked for a longer pause.
    while (left_s := state.not_before - loop.time()) > 0:
        await asyncio.sleep(left_s)
    state.not_before = loop.time() + delay_s


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds a `Retry-After` header asks for (a number or an HTTP date), None where it is unreadable."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)
