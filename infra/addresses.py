"""Which network addresses a crawler may talk to.

A URL list is foreign input: `http://169.254.169.254/` or a host name that resolves to an intranet machine
must not be fetched on its behalf.  The check sits where an address is about to be used: in the resolver,
whose answer aiohttp connects to (so a name that resolves differently the next time gains nothing), and on
literal addresses, which never reach a resolver.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 6052: IPv6 addresses that a translator turns into the IPv4 address in their last 32 bits.
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class PrivateAddressError(Exception):
    """A URL leads to an address that is not on the public internet and not allow-listed."""


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet, also where an IPv6 address wraps an IPv4 one."""
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if wrapped is None and address in NAT64:
            wrapped = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(wrapped)
    return address.is_global and not address.is_multicast


@dataclass(frozen=True, kw_only=True, slots=True)
class AllowedNetwork:
    """One entry of an allow-list: addresses of `network`, at `port` only where one is given."""

    network: Network
    port: int | None = None

    @staticmethod
    def parse(text: str) -> AllowedNetwork:
        """Read `10.0.0.0/8`, `127.0.0.1:8731`, `::1` or `[::1]:8731`; raises `ValueError`."""
        address, port = text.strip(), ""
        if address.startswith("["):
            address, _, rest = address[1:].partition("]")
            port = rest.removeprefix(":")
        elif address.count(":") == 1:
            address, _, port = address.partition(":")
        try:
            return AllowedNetwork(
                network=ipaddress.ip_network(address, strict=False), port=int(port) if port else None
            )
        except ValueError as error:
            raise ValueError(
                f"expected an address or network, with or without a port (10.0.0.0/8, 127.0.0.1:8731, "
                f"[::1]:80), got {text!r}: {error}"
            ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class AddressPolicy:
    """Public addresses are permitted, others only where allow-listed."""

    allowed: tuple[AllowedNetwork, ...] = ()

    @staticmethod
    def of(entries: Iterable[str]) -> AddressPolicy:
        return AddressPolicy(allowed=tuple(AllowedNetwork.parse(entry) for entry in entries))

    def permits(self, address: str, port: int) -> bool:
        """Whether a connection to a numeric address (IPv6 scope allowed) and port may be made."""
        parsed = ipaddress.ip_address(address.partition("%")[0])
        if is_public(parsed):
            return True
        return any(
            parsed.version == entry.network.version and parsed in entry.network and entry.port in (None, port)
            for entry in self.allowed
        )

    def require_literal(self, host: str, port: int) -> None:
        """Raise `PrivateAddressError` where `host` is a numeric address that is not permitted."""
        try:
            permitted = self.permits(host, port)
        except ValueError:
            return  # a name: the resolver's turn
        if not permitted:
            raise PrivateAddressError(f"{host}:{port} is a private address that is not allow-listed")


class GuardedResolver(AbstractResolver):
    """A resolver that answers with permitted addresses only."""

    def __init__(self, policy: AddressPolicy) -> None:
        self.policy = policy
        self.resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a name; raises `PrivateAddressError` where no address of it is permitted."""
        found = await self.resolver.resolve(host, port, family)
        permitted = [result for result in found if self.policy.permits(result["host"], port)]
        if found and not permitted:
            raise PrivateAddressError(
                f"{host}:{port} resolves to {found[0]['host']}, a private address that is not allow-listed"
            )
        return permitted

    async def close(self) -> None:
        await self.resolver.close()
