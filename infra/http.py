"""Fetching many URLs of foreign origin: asynchronously, with a limit on everything, politely.

Every fetch ends in a `Fetched` record or a `FetchFailure` with a terminal state; nothing is raised for what
an origin does.  Retries with exponential back-off are made for the transient states only.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from infra.addresses import AddressPolicy, GuardedResolver, PrivateAddressError
from infra.http_body import BodyEncodingError, BodyTooLargeError, read_body
from infra.politeness import HostTurns, retry_after_s
from infra.robots import directive_against
from infra.robots_txt import MAX_BYTES as MAX_ROBOTS_BYTES
from infra.robots_txt import NoRobots, Robots, RobotsCache

FailureState = Literal[
    "gone",
    "transient",
    "timeout",
    "refused_by_site",
    "refused_by_policy",
    "private_address",
    "too_large",
    "decode_error",
]
RETRIED: frozenset[FailureState] = frozenset({"transient", "timeout"})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
ROBOTS_REDIRECTS = 5
# The site knows us and says no; asking again would be rude.
REFUSALS = frozenset({401, 402, 403, 407, 451})
TRANSIENT_STATUSES = frozenset({408, 421, 423, 425, 429})
WAIT_STATUSES = frozenset({429, 503})
# The name exists nowhere; every other resolver failure may pass.
NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
# Long enough for the next URL of a host in a list; idle sockets of a crawl over many hosts stay few.
KEEP_ALIVE_S = 5.0
DNS_CACHE_S = 300
DNS_CACHE_NAMES = 10_000
READ_BUFFER_BYTES = 2**18


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchPolicy:
    """What a fetch may cost and what it must respect."""

    total_timeout_s: float = 30.0
    idle_timeout_s: float = 10.0
    max_bytes: int = 32 * 2**20
    max_redirects: int = 5
    retries: int = 2
    backoff_s: float = 0.5
    retry_after_max_s: float = 30.0
    robots_txt: Literal["honour", "ignore"] = "honour"
    max_crawl_delay_s: float = 60.0
    user_agent: str = "unclip/0.1 (image-text corpus builder)"
    user_agent_token: str = "unclip"
    disallowed_directives: frozenset[str] = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
    addresses: AddressPolicy = field(default_factory=AddressPolicy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one of `of` fetchers that work at the same time may do; their sum is what a run may do.

    `connections` requests under way are this fetcher's own.  Per host it takes its part of the run's limits:
    `per_host // of` requests at a time (at least one), begun `delay_s * of` seconds apart, and a site's
    Crawl-delay likewise.  The parts add up to the whole on average: when a process takes over from another,
    two requests may lie closer together.
    """

    connections: int = 64
    per_host: int = 8
    delay_s: float = 0.0
    of: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A whole response: final URL, body (decompressed), and the content type as claimed."""

    url: str
    body: bytes
    content_type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchFailure:
    """Why there is no body."""

    state: FailureState
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Redirect:
    """Where an answer sends us instead."""

    url: str


AnswerT = TypeVar("AnswerT")
Refuse = Callable[[str], str | None]


class Fetcher:
    """An asynchronous fetcher; use as a context manager inside one event loop.

    Connections, their TLS context, the DNS cache and every robots.txt are kept for its whole life.  A
    request's clock starts when it gets its turn, so a slow neighbour at the same host does not time it out.
    """

    def __init__(self, policy: FetchPolicy, share: Share | None = None) -> None:
        self.policy = policy
        self.share = share or Share()
        self._turn = asyncio.Semaphore(self.share.connections)
        self._hosts = HostTurns(
            at_a_time=max(1, self.share.per_host // self.share.of),
            delay_s=self.share.delay_s * self.share.of,
        )
        self._robots = RobotsCache(self._load_robots)
        self._jitter = random.Random(0)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Fetcher:
        # The connector's own limits are off: time spent queueing for them would count as the request's.  Its
        # TLS context is aiohttp's own, which is one for the whole process.
        connector = aiohttp.TCPConnector(
            limit=0,
            ttl_dns_cache=DNS_CACHE_S,
            dns_cache_max_size=DNS_CACHE_NAMES,
            keepalive_timeout=KEEP_ALIVE_S,
            resolver=GuardedResolver(self.policy.addresses),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_read=self.policy.idle_timeout_s),
            # Images are compressed already.
            headers={"User-Agent": self.policy.user_agent, "Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def fetch(self, url: str, *, refuse: Refuse | None = None) -> Fetched | FetchFailure:
        """Fetch one URL, retrying transient failures; never raises for what the origin does.

        `refuse` is asked about the URL and about every one it redirects to, before any request is made; the
        message it returns ends the fetch as `refused_by_policy`.
        """

        async def attempt() -> Fetched | FetchFailure:
            answer = await self._follow(url, self._image, self.policy.max_redirects, refuse, guarded=True)
            if isinstance(answer, Redirect):
                return FetchFailure(state="gone", message=f"more than {self.policy.max_redirects} redirects")
            return answer

        return await self._retried(attempt)

    async def _load_robots(self, origin: str) -> Robots | NoRobots:
        """RFC 9309, 2.3.1: no such file allows everything, a site that cannot be asked forbids everything."""

        async def attempt() -> str | FetchFailure:
            answer = await self._follow(f"{origin}/robots.txt", _robots_text, ROBOTS_REDIRECTS)
            return "" if isinstance(answer, Redirect) else answer

        found = await self._retried(attempt)
        if isinstance(found, str):
            return Robots(found, self.policy.user_agent_token)
        # A host that does not exist, or may not be asked, is that for its images too.
        final = found.state if found.state in ("gone", "private_address") else "transient"
        return NoRobots(state=final, message=f"robots.txt: {found.message}")

    async def _retried(
        self, attempt: Callable[[], Awaitable[AnswerT | FetchFailure]]
    ) -> AnswerT | FetchFailure:
        for tries in range(self.policy.retries + 1):
            if tries:
                # Up to half as long again: what failed together does not come back together.
                pause_s = self.policy.backoff_s * 2 ** (tries - 1)
                await asyncio.sleep(pause_s * (1 + self._jitter.random() / 2))
            answer = await attempt()
            if not isinstance(answer, FetchFailure) or answer.state not in RETRIED:
                break
        return answer

    async def _follow(
        self,
        url: str,
        read: Callable[[aiohttp.ClientResponse], Awaitable[AnswerT | FetchFailure]],
        max_redirects: int,
        refuse: Refuse | None = None,
        *,
        guarded: bool = False,
    ) -> AnswerT | Redirect | FetchFailure:
        """Follow redirects by hand: every hop is checked and takes its turn at its host, not only the first.

        With `guarded`, robots.txt of every hop's origin is asked.  A `Redirect` is one too many.
        """
        loop = asyncio.get_running_loop()
        left_s = self.policy.total_timeout_s
        for _ in range(max_redirects + 1):
            failure = _malformed(url) or _refused(url, refuse)
            if failure is not None:
                return failure
            target = URL(url)
            delay_s = await self._crawl_delay_s(target) if guarded else 0.0
            if isinstance(delay_s, FetchFailure):
                return delay_s
            async with self._hosts.turn(target.host or "", delay_s * self.share.of), self._turn:
                started = loop.time()
                answer = await self._exchange(target, read, left_s)
                left_s -= loop.time() - started
            if not isinstance(answer, Redirect):
                return answer
            url = answer.url
        return answer

    async def _crawl_delay_s(self, target: URL) -> float | FetchFailure:
        """Seconds between requests that the target's robots.txt asks for, or the failure it stands for."""
        if self.policy.robots_txt == "ignore":
            return 0.0
        robots = await self._robots.of(str(target.origin()))
        if isinstance(robots, NoRobots):
            return FetchFailure(state=robots.state, message=robots.message)
        if not robots.allows(str(target)):
            path = target.raw_path_qs[:200]
            return FetchFailure(state="refused_by_site", message=f"robots.txt disallows {path}")
        if robots.crawl_delay_s > self.policy.max_crawl_delay_s:
            asked = f"robots.txt asks for {robots.crawl_delay_s:g} s between requests"
            return FetchFailure(
                state="refused_by_site",
                message=f"{asked}, expected at most {self.policy.max_crawl_delay_s:g}",
            )
        return robots.crawl_delay_s

    async def _exchange(
        self,
        target: URL,
        read: Callable[[aiohttp.ClientResponse], Awaitable[AnswerT | FetchFailure]],
        limit_s: float,
    ) -> AnswerT | Redirect | FetchFailure:
        """One request within `limit_s`, and what became of it."""
        assert self._session is not None
        try:
            self.policy.addresses.require_literal(target.host or "", target.port or 0)
            async with asyncio.timeout(limit_s) as clock:
                async with self._session.get(target, allow_redirects=False) as response:
                    self._heed(target, response)
                    if response.status in REDIRECTS and "Location" in response.headers:
                        return _redirect(target, response.headers["Location"])
                    return await read(response)
        except PrivateAddressError as error:
            return FetchFailure(state="private_address", message=str(error))
        except BodyTooLargeError as error:
            return FetchFailure(state="too_large", message=str(error))
        except BodyEncodingError as error:
            return FetchFailure(state="decode_error", message=str(error))
        except aiohttp.SocketTimeoutError:
            return FetchFailure(state="timeout", message=f"idle for {self.policy.idle_timeout_s:g} s")
        except TimeoutError:
            if not clock.expired():
                raise
            return FetchFailure(
                state="timeout", message=f"not finished after {self.policy.total_timeout_s:g} s"
            )
        except aiohttp.ClientError as error:
            return _client_failure(error)
        except UnicodeError as error:  # a host label that cannot be looked up
            return FetchFailure(state="gone", message=f"malformed host: {error}")

    def _heed(self, target: URL, response: aiohttp.ClientResponse) -> None:
        """Leave a host that says it has too much to do alone for as long as it asks, within our patience."""
        if response.status in WAIT_STATUSES:
            asked_s = retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))
            if asked_s is not None:
                self._hosts.hold_off(target.host or "", min(asked_s, self.policy.retry_after_max_s))

    async def _image(self, response: aiohttp.ClientResponse) -> Fetched | FetchFailure:
        refusal = _refusal(response, self.policy)
        if refusal is not None:
            return refusal
        body = await read_body(response, self.policy.max_bytes)
        return Fetched(url=str(response.url), body=body, content_type=response.content_type)


async def _robots_text(response: aiohttp.ClientResponse) -> str | FetchFailure:
    """The text of robots.txt: empty where the site has none.  "Too many requests" is no such answer."""
    if 200 <= response.status < 300:
        return (await read_body(response, MAX_ROBOTS_BYTES, cut=True)).decode("utf-8", errors="replace")
    if 400 <= response.status < 500 and response.status != 429:
        return ""
    return FetchFailure(state="transient", message=_status_line(response))


def _malformed(url: str) -> FetchFailure | None:
    """The failure of what is not an http(s) URL with a host."""
    try:
        fine = urlsplit(url).scheme in ("http", "https") and URL(url).host
    except ValueError:
        fine = None
    if fine:
        return None
    message = f"expected an http or https URL with a host, got {url[:200]!r}"
    return FetchFailure(state="refused_by_policy", message=message)


def _redirect(target: URL, location: str) -> Redirect | FetchFailure:
    try:
        return Redirect(url=urljoin(str(target), location))
    except ValueError:
        return FetchFailure(state="refused_by_policy", message=f"redirected to {location[:200]!r}")


def _refused(url: str, refuse: Refuse | None) -> FetchFailure | None:
    message = refuse(url) if refuse is not None else None
    return None if message is None else FetchFailure(state="refused_by_policy", message=message)


def _status_line(response: aiohttp.ClientResponse) -> str:
    return f"HTTP {response.status} {response.reason or ''}".rstrip()


def _refusal(response: aiohttp.ClientResponse, policy: FetchPolicy) -> FetchFailure | None:
    """The failure a status line or the robots header stands for, or None where the body may be read."""
    status, message = response.status, _status_line(response)
    if status in REFUSALS:
        return FetchFailure(state="refused_by_site", message=message)
    if status in TRANSIENT_STATUSES or status >= 500:
        return FetchFailure(state="transient", message=message)
    if status != 200:
        return FetchFailure(state="gone", message=message)
    directive = directive_against(
        response.headers.getall("X-Robots-Tag", []), policy.disallowed_directives, policy.user_agent_token
    )
    if directive is not None:
        return FetchFailure(state="refused_by_site", message=f"X-Robots-Tag: {directive}")
    return None


def _client_failure(error: aiohttp.ClientError) -> FetchFailure:
    """Sort what aiohttp raises: wrong for good (name, certificate, URL), or worth another try."""
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        absent = isinstance(error.os_error, socket.gaierror) and error.os_error.errno in NO_SUCH_NAME
        return FetchFailure(state="gone" if absent else "transient", message=message)
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.InvalidURL):
        return FetchFailure(state="gone", message=message)
    return FetchFailure(state="transient", message=message)
