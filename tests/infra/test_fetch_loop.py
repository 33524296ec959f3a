"""The worker's fetch loop: what a fetcher holds outlives the shard it was made for."""

from __future__ import annotations

import asyncio

from infra.addresses import AddressPolicy
from infra.fetch_loop import FetchLoop, fetch_loop
from infra.http import Fetched, FetchPolicy, Share
from tests.infra.wire import response, serving

POLICY = FetchPolicy(retries=0, addresses=AddressPolicy.of(["127.0.0.1"]))


async def answer(path: str, writer: asyncio.StreamWriter) -> None:
    if path == "/slow":
        await asyncio.sleep(600)
    status = "404 Not Found" if path == "/robots.txt" else "200 OK"
    writer.write(response(b"body", status=status))


def test_connections_and_robots_txt_outlive_a_shard() -> None:
    loop = FetchLoop()
    with serving(answer) as wire:
        for shard in range(3):
            fetcher = loop.fetcher(POLICY, Share())
            fetched = loop.submit(fetcher.fetch(f"http://127.0.0.1:{wire.port}/{shard}")).result()
            assert isinstance(fetched, Fetched)
        loop.close()
    assert wire.connections == 1
    assert wire.hits == {"/robots.txt": 1, "/0": 1, "/1": 1, "/2": 1}


def test_a_cancelled_fetch_and_one_under_way_at_the_end_harm_nobody() -> None:
    loop = FetchLoop()
    with serving(answer) as wire:
        fetcher = loop.fetcher(POLICY, Share())
        slow = [loop.submit(fetcher.fetch(f"http://127.0.0.1:{wire.port}/slow")) for _ in range(2)]
        slow[0].cancel()
        assert isinstance(loop.submit(fetcher.fetch(f"http://127.0.0.1:{wire.port}/a")).result(), Fetched)
        loop.close()
    assert all(future.cancelled() for future in slow)


def test_there_is_one_loop_for_the_process() -> None:
    assert fetch_loop() is fetch_loop()
