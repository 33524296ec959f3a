"""Foreign URLs reach public addresses only."""

from __future__ import annotations

import asyncio

import pytest

from infra.addresses import AddressPolicy, AllowedNetwork, GuardedResolver, PrivateAddressError


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:7f00:1::",
    ],
)
def test_private_addresses_are_refused(address: str) -> None:
    assert not AddressPolicy().permits(address, 80)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8"])
def test_public_addresses_are_permitted(address: str) -> None:
    assert AddressPolicy().permits(address, 80)


@pytest.mark.parametrize(
    ("entry", "address", "port", "permitted"),
    [
        ("127.0.0.1", "127.0.0.1", 80, True),
        ("127.0.0.1:8000", "127.0.0.1", 8000, True),
        ("127.0.0.1:8000", "127.0.0.1", 5000, False),
        ("10.0.0.0/8", "10.9.8.7", 1, True),
        ("[::1]:8000", "::1", 8000, True),
        ("::1", "127.0.0.1", 80, False),
    ],
)
def test_allow_list(entry: str, address: str, port: int, permitted: bool) -> None:
    assert AddressPolicy.of([entry]).permits(address, port) is permitted


@pytest.mark.parametrize("entry", ["localhost", "10.0.0.0/99", "1.2.3.4:http", ""])
def test_malformed_allow_list_says_what_is_expected(entry: str) -> None:
    with pytest.raises(ValueError, match="expected an address or network"):
        AllowedNetwork.parse(entry)


# Spellings of 127.0.0.1 that are names to every literal check and loopback to the system's resolver.
@pytest.mark.parametrize("name", ["localhost", "2130706433", "0x7f.1"])
def test_names_of_private_addresses_are_refused(name: str) -> None:
    async def resolve() -> None:
        resolver = GuardedResolver(AddressPolicy())
        try:
            await resolver.resolve(name, 80)
        finally:
            await resolver.close()

    with pytest.raises(PrivateAddressError, match=r"127\.0\.0\.1"):
        asyncio.run(resolve())
