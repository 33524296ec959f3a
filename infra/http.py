"""Fetching many URLs of foreign origin: asynchronously, with a limit on everything, politely.

Every fetch ends in a `Fetched` record or a `FetchFailure` with a terminal state; nothing is raised for what
an origin does.  Retries with exponential back-off are made for the transient states only.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from infra.addresses import AddressPolicy, GuardedResolver, PrivateAddressError
from infra.robots import directive_against

FailureState = Literal[
    "gone",
    "transient",
    "timeout",
    "refused_by_site",
    "refused_by_policy",
    "private_address",
    "too_large",
]
RETRIED: frozenset[FailureState] = frozenset({"transient", "timeout"})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# The site knows us and says no; asking again would be rude.
REFUSALS = frozenset({401, 402, 403, 407, 451})
TRANSIENT_STATUSES = frozenset({408, 421, 423, 425, 429})
# The name exists nowhere; every other resolver failure may pass.
NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
READ_BYTES = 2**16


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchPolicy:
    """What a fetch may cost and what it must respect."""

    total_timeout_s: float = 30.0
    idle_timeout_s: float = 10.0
    max_bytes: int = 32 * 2**20
    max_redirects: int = 5
    retries: int = 2
    backoff_s: float = 0.5
    user_agent: str = "unclip/0.1 (image-text corpus builder)"
    user_agent_token: str = "unclip"
    disallowed_directives: frozenset[str] = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
    addresses: AddressPolicy = field(default_factory=AddressPolicy)
    refuse: Callable[[str], str | None] = lambda _url: None
    """Asked of every hop, the first included: the message with which a URL is refused, or None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A whole response: final URL, body, and the content type as claimed."""

    url: str
    body: bytes
    content_type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchFailure:
    """Why there is no body."""

    state: FailureState
    message: str


class Fetcher:
    """An asynchronous fetcher; use as a context manager inside one event loop.

    At most `connections` requests are under way, `per_host` of them at one host.  A request's clock starts
    when it gets its turn, so a slow neighbour at the same host does not time it out.
    """

    def __init__(self, policy: FetchPolicy, *, connections: int = 64, per_host: int = 8) -> None:
        self.policy = policy
        self._turn = asyncio.Semaphore(connections)
        self._host_turn: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(per_host)
        )
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Fetcher:
        # The connector's own limits are off: time spent queueing for them would count as the request's.
        connector = aiohttp.TCPConnector(
            limit=0, ttl_dns_cache=300, resolver=GuardedResolver(self.policy.addresses)
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_read=self.policy.idle_timeout_s),
            # Images are compressed already, and a body that inflates itself defeats the byte cap.
            headers={"User-Agent": self.policy.user_agent, "Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def fetch(self, url: str) -> Fetched | FetchFailure:
        """Fetch one URL, retrying transient failures; never raises for what the origin does."""
        host = _host(url)
        if host is None:
            return FetchFailure(
                state="refused_by_policy", message=f"expected an http or https URL with a host, got {url!r}"
            )
        for attempt in range(self.policy.retries + 1):
            if attempt:
                await asyncio.sleep(self.policy.backoff_s * 2 ** (attempt - 1))
            async with self._host_turn[host], self._turn:
                result = await self._attempt(url)
            if isinstance(result, Fetched) or result.state not in RETRIED:
                break
        return result

    async def _attempt(self, url: str) -> Fetched | FetchFailure:
        limit_s = self.policy.total_timeout_s
        try:
            async with asyncio.timeout(limit_s) as clock:
                return await self._follow(url)
        except PrivateAddressError as error:
            return FetchFailure(state="private_address", message=str(error))
        except aiohttp.SocketTimeoutError:
            return FetchFailure(state="timeout", message=f"idle for {self.policy.idle_timeout_s:g} s")
        except TimeoutError:
            if not clock.expired():
                raise
            return FetchFailure(state="timeout", message=f"not finished after {limit_s:g} s")
        except aiohttp.ClientError as error:
            return _client_failure(error)
        except UnicodeError as error:  # a host label that cannot be looked up
            return FetchFailure(state="gone", message=f"malformed host: {error}")

    async def _follow(self, url: str) -> Fetched | FetchFailure:
        """Follow redirects by hand: every hop's address is checked, not only the first."""
        assert self._session is not None
        for _ in range(self.policy.max_redirects + 1):
            if _host(url) is None:
                return FetchFailure(state="refused_by_policy", message=f"redirected to {url[:200]!r}")
            if reason := self.policy.refuse(url):
                return FetchFailure(state="refused_by_policy", message=reason)
            target = URL(url)
            self.policy.addresses.require_literal(target.host or "", target.port or 0)
            async with self._session.get(target, allow_redirects=False) as response:
                if response.status in REDIRECTS and "Location" in response.headers:
                    url = urljoin(url, response.headers["Location"])
                    continue
                return _refusal(response, self.policy) or await self._read(response)
        return FetchFailure(state="gone", message=f"more than {self.policy.max_redirects} redirects")

    async def _read(self, response: aiohttp.ClientResponse) -> Fetched | FetchFailure:
        """Read the body, giving up at the byte cap whatever length was announced."""
        cap = self.policy.max_bytes
        too_large = FetchFailure(state="too_large", message=f"more than {cap} bytes")
        if (response.content_length or 0) > cap:
            return too_large
        body = bytearray()
        async for block in response.content.iter_chunked(READ_BYTES):
            body += block
            if len(body) > cap:
                return too_large
        return Fetched(url=str(response.url), body=bytes(body), content_type=response.content_type)


def _host(url: str) -> str | None:
    """The host of an http(s) URL, or None where the URL is not one."""
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.scheme in ("http", "https") and URL(url).host else None
    except ValueError:
        return None


def _refusal(response: aiohttp.ClientResponse, policy: FetchPolicy) -> FetchFailure | None:
    """The failure a status line or the robots header stands for, or None where the body may be read."""
    status = response.status
    message = f"HTTP {status} {response.reason or ''}".rstrip()
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
