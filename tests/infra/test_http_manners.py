"""Manners: delays that hold, Retry-After, robots.txt fetched once and obeyed, saying who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest

from infra.addresses import AddressPolicy
from infra.http import Fetched, Fetcher, FetchFailure, FetchPolicy, Share
from infra.politeness import HostTurns, retry_after_s
from tests.infra.wire import Wire, response, serving

PATIENT = {"total_timeout_s": 5.0, "idle_timeout_s": 5.0, "retries": 0, "backoff_s": 0.01}


def fetch(
    wire: Wire, paths: Iterable[str], share: Share | None = None, **settings: Any
) -> list[Fetched | FetchFailure]:
    policy = FetchPolicy(**{**PATIENT, "addresses": AddressPolicy.of(["127.0.0.1"]), **settings})

    async def main() -> list[Fetched | FetchFailure]:
        async with Fetcher(policy, share) as fetcher:
            return await asyncio.gather(
                *(fetcher.fetch(f"http://127.0.0.1:{wire.port}{path}") for path in paths)
            )

    return asyncio.run(main())


def robots(text: str, *, status: str = "200 OK") -> Any:
    """An answer of a site with this robots.txt and an image anywhere else."""

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/robots.txt":
            await asyncio.sleep(0.05)  # long enough for everybody to be waiting for it
            writer.write(response(text.encode(), status=status))
        else:
            writer.write(response(b"image"))

    return answer


def span(wire: Wire) -> float:
    """Seconds between the first and the last request for an image."""
    moments = [m for path, found in wire.moments.items() if path != "/robots.txt" for m in found]
    return max(moments) - min(moments)


def test_robots_txt_is_fetched_once_and_obeyed() -> None:
    with serving(robots("User-agent: *\nDisallow: /private/\nAllow: /private/open")) as wire:
        results = fetch(wire, [*(f"/{n}" for n in range(100)), "/private/a?b=c", "/private/open"])
    assert wire.hits["/robots.txt"] == 1
    assert all(isinstance(result, Fetched) for result in [*results[:100], results[101]])
    message = "robots.txt disallows /private/a?b=c"
    assert results[100] == FetchFailure(state="refused_by_site", message=message)
    assert wire.hits["/private/a?b=c"] == 0
    assert wire.connections <= 20  # kept alive, not one per request


def test_robots_txt_can_be_ignored() -> None:
    with serving(robots("User-agent: *\nDisallow: /")) as wire:
        (result,) = fetch(wire, ["/a"], robots_txt="ignore")
    assert isinstance(result, Fetched)
    assert wire.hits == {"/a": 1}


@pytest.mark.parametrize(
    ("status", "state"),
    [("404 Not Found", None), ("403 Forbidden", None), ("503 Busy", "transient"), ("429 Slow", "transient")],
)
def test_no_robots_txt_allows_and_an_unreachable_one_forbids(status: str, state: str | None) -> None:
    with serving(robots("User-agent: *\nDisallow: /", status=status)) as wire:
        (result,) = fetch(wire, ["/a"])
    assert getattr(result, "state", None) == state
    assert wire.hits["/a"] == (0 if state else 1)


def test_robots_txt_is_asked_of_every_origin_on_the_way_and_may_itself_move() -> None:
    async def elsewhere(path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/rules":
            writer.write(response(b"User-agent: unclip\nDisallow: /no"))
        else:
            status = "301 Moved"
            writer.write(
                response(b"", f"Location: {'/rules' if path == '/robots.txt' else '/x'}", status=status)
            )

    with serving(elsewhere) as there:

        async def here(path: str, writer: asyncio.StreamWriter) -> None:
            if path == "/robots.txt":
                writer.write(response(b"", status="404 Not Found"))
            else:
                to = f"Location: http://127.0.0.1:{there.port}/no"
                writer.write(response(b"", to, status="302 Found"))

        with serving(here) as wire:
            (result,) = fetch(wire, ["/a"])
    assert result == FetchFailure(state="refused_by_site", message="robots.txt disallows /no")
    assert there.hits["/no"] == 0


def test_robots_txt_that_moves_in_a_circle_is_none() -> None:
    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        moved = response(b"", "Location: /robots.txt", status="302 Found")
        writer.write(moved if path == "/robots.txt" else response(b"image"))

    with serving(answer) as wire:
        (result,) = fetch(wire, ["/a"])
    assert isinstance(result, Fetched)
    assert wire.hits["/robots.txt"] == 6


def test_the_larger_of_our_delay_and_the_sites_holds_for_the_share() -> None:
    with serving(robots("User-agent: *\nCrawl-delay: 0.1")) as wire:
        fetch(wire, [f"/{n}" for n in range(4)], Share(delay_s=0.01, of=2))
    assert span(wire) > 0.4  # three times 0.1 s for the run, half of which is ours, or 0.6 s
    with serving(robots("User-agent: *\nCrawl-delay: 0.01")) as wire:
        fetch(wire, [f"/{n}" for n in range(4)], Share(delay_s=0.15))
    assert span(wire) > 0.3  # three times 0.15 s


def test_a_site_that_asks_for_too_long_a_delay_is_left_alone() -> None:
    with serving(robots("User-agent: *\nCrawl-delay: 3600")) as wire:
        (result,) = fetch(wire, ["/a"])
    assert isinstance(result, FetchFailure)
    assert result.state == "refused_by_site"
    assert "3600" in result.message
    assert wire.hits["/a"] == 0


@pytest.mark.parametrize("asked", ["1", "3600"])
def test_retry_after_holds_the_whole_host_off_within_our_patience(asked: str) -> None:
    patience_s = 0.3

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        first = path == "/a" and wire.hits[path] == 1
        busy = response(b"", f"Retry-After: {asked}", status="429 Too Many Requests")
        writer.write(busy if first else response(b"image"))

    with serving(answer) as wire:
        share = Share(per_host=1)  # so that the second row comes after the refusal
        settings = {"retries": 1, "retry_after_max_s": patience_s, "robots_txt": "ignore"}
        results = fetch(wire, ["/a", "/b"], share, **settings)
    assert all(isinstance(result, Fetched) for result in results)
    refused = wire.moments["/a"][0]
    assert min(wire.moments["/a"][1], wire.moments["/b"][0]) - refused > patience_s * 0.9


def test_retry_after_in_every_spelling() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after_s("120", now) == 120
    assert retry_after_s(format_datetime(now + timedelta(seconds=90), usegmt=True), now) == 90
    assert retry_after_s(format_datetime(now - timedelta(seconds=90), usegmt=True), now) == 0
    assert retry_after_s("soon", now) is None
    assert retry_after_s(None, now) is None


def test_turns_at_a_host_begin_no_sooner_than_its_delay() -> None:
    begun: dict[str, list[float]] = {"slow": [], "fast": []}

    async def main() -> None:
        turns = HostTurns(at_a_time=4, delay_s=0.02)

        async def use(host: str, delay_s: float) -> None:
            async with turns.turn(host, delay_s):
                begun[host].append(asyncio.get_running_loop().time())

        await asyncio.gather(*(use("slow", 0.05) for _ in range(6)), *(use("fast", 0.0) for _ in range(6)))

    asyncio.run(main())
    for host, delay_s in (("slow", 0.05), ("fast", 0.02)):
        assert min(later - earlier for earlier, later in pairwise(begun[host])) > delay_s * 0.99


def test_hosts_are_forgotten_once_nobody_waits_for_them() -> None:
    async def main() -> int:
        turns = HostTurns(at_a_time=2, delay_s=0.02)

        async def use(host: str) -> None:
            async with turns.turn(host):
                pass

        await asyncio.gather(*(use(f"host{n % 50}") for n in range(100)))
        await asyncio.sleep(0.1)
        return len(turns._hosts)

    assert asyncio.run(main()) == 0


def test_the_user_agent_is_sent_as_given() -> None:
    with serving(robots("")) as wire:
        fetch(wire, ["/a"], user_agent="unclip/0.1 (+https://lab.example/crawler)")
    assert wire.headers["user-agent"] == "unclip/0.1 (+https://lab.example/crawler)"
    assert wire.headers["accept-encoding"] == "identity"
