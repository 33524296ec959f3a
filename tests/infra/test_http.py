"""The fetcher against a real server that misbehaves: every URL ends in a state, in time, in bounds."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from infra.addresses import AddressPolicy
from infra.http import Fetched, Fetcher, FetchFailure, FetchPolicy, Share

CAP = 100_000


class Misbehaving:
    """A server on a free port whose paths each do something; `hits` counts requests by path."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.peak = self.current = 0
        self.seen: dict[str, str] = {}
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self.stop = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path == "/robots.txt":
            raise web.HTTPNotFound
        self.hits[path] += 1
        self.seen = dict(request.headers)
        if path == "/flaky" and self.hits[path] == 1:
            return web.Response(status=503)
        if path.startswith("/status/"):
            return web.Response(status=int(path.rpartition("/")[2]))
        if path == "/loop":
            return web.Response(status=302, headers={"Location": "/loop"})
        if path == "/moved":
            return web.Response(status=301, headers={"Location": "/image"})
        if path == "/moved-inside":
            return web.Response(status=302, headers={"Location": f"http://127.0.0.1:{self.port + 1}/"})
        if path == "/moved-to-file":
            return web.Response(status=302, headers={"Location": "file:///etc/hostname"})
        if path == "/noai":
            return web.Response(body=b"x", headers={"X-Robots-Tag": "noai"})
        if path == "/moved-to-nonsense":
            return web.Response(status=302, headers={"Location": "http://[broken/"})
        if path == "/hang":
            await asyncio.sleep(60)
        if path in ("/drip", "/endless", "/short"):
            return await self.stream(request)
        self.current += 1
        self.peak = max(self.peak, self.current)
        await asyncio.sleep(0.02 if path.startswith("/busy") else 0)
        self.current -= 1
        return web.Response(body=b"image of " + path.encode(), content_type="image/png")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if request.path == "/short":
            response.content_length = 1000
        await response.prepare(request)
        for _ in range(1 if request.path == "/short" else 10_000):
            await response.write(b"x" if request.path == "/drip" else b"x" * 500)
            await asyncio.sleep(0.05 if request.path == "/drip" else 0)
        if request.path == "/short" and request.transport is not None:
            request.transport.close()
        return response

    def serve(self, ready: threading.Event) -> None:
        async def main() -> None:
            application = web.Application()
            application.router.add_get("/{path:.*}", self.answer)
            runner = web.AppRunner(
                application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
            )
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            ready.set()
            await self.stop.wait()
            await runner.cleanup()

        self.loop.run_until_complete(main())


@pytest.fixture(scope="module")
def server() -> Iterator[Misbehaving]:
    misbehaving, ready = Misbehaving(), threading.Event()
    thread = threading.Thread(target=misbehaving.serve, args=(ready,))
    thread.start()
    ready.wait()
    yield misbehaving
    misbehaving.loop.call_soon_threadsafe(misbehaving.stop.set)
    thread.join()


def fetch(
    server: Misbehaving, *paths: str, share: Share | None = None, **settings: Any
) -> list[Fetched | FetchFailure]:
    policy = FetchPolicy(
        **{
            "total_timeout_s": 1.0,
            "idle_timeout_s": 0.3,
            "max_bytes": CAP,
            "retries": 1,
            "backoff_s": 0.01,
            "addresses": AddressPolicy.of([f"127.0.0.1:{server.port}"]),
            **settings,
        }
    )

    async def main() -> list[Fetched | FetchFailure]:
        async with Fetcher(policy, share) as fetcher:
            urls = [p if "://" in p else f"http://127.0.0.1:{server.port}{p}" for p in paths]
            return await asyncio.gather(*map(fetcher.fetch, urls))

    return asyncio.run(main())


def test_body_type_and_final_url(server: Misbehaving) -> None:
    (result,) = fetch(server, "/moved")
    assert isinstance(result, Fetched)
    assert (result.body, result.content_type) == (b"image of /image", "image/png")
    assert result.url.endswith("/image")
    assert server.seen["User-Agent"].startswith("unclip/")


@pytest.mark.parametrize(
    ("path", "state", "message"),
    [
        ("/status/404", "gone", "404"),
        ("/status/410", "gone", "410"),
        ("/status/204", "gone", "204"),
        ("/status/403", "refused_by_site", "403"),
        ("/status/451", "refused_by_site", "451"),
        ("/status/429", "transient", "429"),
        ("/status/500", "transient", "500"),
        ("/noai", "refused_by_site", "X-Robots-Tag: noai"),
        ("/loop", "gone", "more than 5 redirects"),
        ("/hang", "timeout", "idle for 0.3 s"),
        ("/drip", "timeout", "not finished after 1 s"),
        ("/endless", "too_large", f"more than {CAP} bytes"),
        ("/short", "transient", "ClientPayloadError"),
        ("/moved-inside", "private_address", "not allow-listed"),
        ("/moved-to-file", "refused_by_policy", "file:///"),
        ("/moved-to-nonsense", "refused_by_policy", "broken"),
        ("http://localhost:9/", "private_address", "resolves to"),
        ("http://169.254.169.254/latest", "private_address", "169.254.169.254"),
        ("http://[::1]/", "private_address", "::1"),
        ("http://no-such-host.invalid/", "gone", "no-such-host.invalid"),
        (f"http://{'a' * 70}.example/", "gone", "malformed host"),
        ("ftp://example.org/a.png", "refused_by_policy", "http"),
        ("http://", "refused_by_policy", "http"),
        ("http://[broken/", "refused_by_policy", "broken"),
    ],
)
def test_every_failure_has_its_state(server: Misbehaving, path: str, state: str, message: str) -> None:
    (result,) = fetch(server, path)
    assert isinstance(result, FetchFailure)
    assert (result.state, message in result.message) == (state, True), result


def test_only_transient_failures_are_tried_again(server: Misbehaving) -> None:
    server.hits.clear()
    results = fetch(server, "/flaky", "/status/502", "/status/404", "/noai", retries=2)
    assert isinstance(results[0], Fetched)
    assert server.hits == {"/flaky": 2, "/status/502": 3, "/status/404": 1, "/noai": 1}


def test_directives_can_be_switched_off(server: Misbehaving) -> None:
    (result,) = fetch(server, "/noai", disallowed_directives=frozenset())
    assert isinstance(result, Fetched)


def test_requests_at_one_host_are_bounded_and_waiting_costs_nobody_its_time(server: Misbehaving) -> None:
    server.peak = 0
    share = Share(connections=30, per_host=3)
    results = fetch(server, *(f"/busy/{n}" for n in range(60)), share=share, total_timeout_s=0.3)
    assert all(isinstance(result, Fetched) for result in results)
    assert server.peak == 3


def test_a_url_is_refused_before_any_request_wherever_it_comes_from(server: Misbehaving) -> None:
    server.hits.clear()

    async def main() -> list[Fetched | FetchFailure]:
        policy = FetchPolicy(addresses=AddressPolicy.of(["127.0.0.1"]))
        base = f"http://127.0.0.1:{server.port}"
        refuse = {f"{base}/image": "listed", f"{base}/other": "listed too"}.get
        async with Fetcher(policy) as fetcher:
            return [await fetcher.fetch(base + path, refuse=refuse) for path in ("/other", "/moved", "/free")]

    other, moved, free = asyncio.run(main())
    assert other == FetchFailure(state="refused_by_policy", message="listed too")
    assert moved == FetchFailure(state="refused_by_policy", message="listed")
    assert isinstance(free, Fetched)
    assert server.hits == {"/moved": 1, "/free": 1}
