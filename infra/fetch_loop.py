"""One event loop for fetching per worker process: what a fetcher holds outlives the shard it was made for.

Connections stay alive, the TLS context and the DNS cache are made once, and a robots.txt is not fetched again
for every shard.  The loop runs in a thread of its own, so that the network goes on while a shard is written.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import resource
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from infra.http import Fetcher, FetchPolicy, Share

T = TypeVar("T")

# As many as macOS grants, too.
OPEN_FILES = 8192


class FetchLoop:
    """An event loop in a thread, with one fetcher for every policy and share asked for."""

    def __init__(self) -> None:
        _allow_many_sockets()
        self._loop = asyncio.new_event_loop()
        self._fetchers: dict[tuple[FetchPolicy, Share], Fetcher] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def fetcher(self, policy: FetchPolicy, share: Share) -> Fetcher:
        """The fetcher for a policy and share, made on first use."""
        return self.submit(self._open(policy, share)).result()

    def close(self) -> None:
        """Close every connection and end the thread."""
        self.submit(self._close_fetchers()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self, policy: FetchPolicy, share: Share) -> Fetcher:
        if (policy, share) not in self._fetchers:
            self._fetchers[policy, share] = await Fetcher(policy, share).__aenter__()
        return self._fetchers[policy, share]

    async def _close_fetchers(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for fetcher in self._fetchers.values():
            await fetcher.__aexit__(None, None, None)
        self._fetchers.clear()


@functools.cache
def fetch_loop() -> FetchLoop:
    """This process's loop, started on first use and closed at exit."""
    loop = FetchLoop()
    atexit.register(loop.close)
    return loop


def _allow_many_sockets() -> None:
    """Raise the soft limit of open files: the usual 1,024 are soon spent on connections kept alive."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
