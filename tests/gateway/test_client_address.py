"""Whose request it is: what stands in X-Forwarded-For counts only from proxies that are trusted."""

import tracemalloc
from ipaddress import IPv4Network, IPv6Network, ip_network

import httpx
import pytest

from gateway.incoming import client_address, read_headers
from tests.gateway.builders import echoes, make_key, open_gateway
from tests.support import Servers

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "trusted", "client"),
    [
        ("198.51.100.1", "203.0.113.7", (), "198.51.100.1"),
        ("198.51.100.1", "203.0.113.7", TRUSTED, "198.51.100.1"),
        ("10.0.0.1", "", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7", TRUSTED, "203.0.113.7"),
        ("10.0.0.1", "198.51.100.9, 203.0.113.7", TRUSTED, "203.0.113.7"),
        ("10.0.0.1", "198.51.100.9, 203.0.113.7 , 10.2.0.1", TRUSTED, "203.0.113.7"),
        ("10.0.0.1", "10.3.0.1, 10.2.0.1", TRUSTED, "10.3.0.1"),
        ("10.0.0.1", "203.0.113.7, unknown", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7, 10.2.0.1:443", TRUSTED, "203.0.113.7"),
        ("fd00::1", "2001:db8::7", TRUSTED, "2001:db8::7"),
        ("::ffff:10.0.0.1", "::ffff:203.0.113.7", TRUSTED, "203.0.113.7"),
        ("::ffff:10.0.0.1", "203.0.113.7", (), "10.0.0.1"),
        ("", "203.0.113.7", TRUSTED, ""),
        ("not an address", "203.0.113.7", TRUSTED, "not an address"),
        ("10.0.0.1", "203.0.113.7, 10.9.9.9, 10.8.8.8,10.7.7.7", TRUSTED, "203.0.113.7"),
        ("10.0.0.1", "10.0.0.9, 198.51.100.9, 10.2.0.1", TRUSTED, "198.51.100.9"),
        ("fd00::1", "203.0.113.7, 10.2.0.1, fd12::3", TRUSTED, "203.0.113.7"),
        ("fd00::1", "2001:DB8:0:0::7", TRUSTED, "2001:db8::7"),
        ("10.0.0.1", "::ffff:10.0.0.9", TRUSTED, "10.0.0.9"),
        ("10.0.0.1", "[2001:db8::7]", TRUSTED, "2001:db8::7"),
        ("10.0.0.1", "[2001:db8::7]:51008", TRUSTED, "2001:db8::7"),
        ("10.0.0.1", "203.0.113.7:51008", TRUSTED, "203.0.113.7"),
        ("10.0.0.1", "198.51.100.9:1, 203.0.113.7:51008 , [fd00::2]:443", TRUSTED, "203.0.113.7"),
        ("10.0.0.1", '"203.0.113.7:51008"', TRUSTED, "203.0.113.7"),
        ("10.0.0.1", '"[2001:db8::7]:51008"', TRUSTED, "2001:db8::7"),
        ("10.0.0.1", '"2001:db8::7"', TRUSTED, "2001:db8::7"),
        ("10.0.0.1", "[::ffff:203.0.113.7]:51008", TRUSTED, "203.0.113.7"),
        ("10.0.0.1", "fe80::7%eth0", TRUSTED, "fe80::7"),
        ("10.0.0.1", "[fe80::7%eth0]:51008", TRUSTED, "fe80::7"),
        ("fd00::1%eth0", "203.0.113.7", TRUSTED, "203.0.113.7"),
        ("10.0.0.1", "unknown", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "_hidden:51008", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", '"203.0.113.7', TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7:", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7:http", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7:123456", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "[203.0.113.7]:80", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "[2001:db8::7", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "[]:80", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "[2001:db8::7]51008", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7,", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", ",", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7, , 10.2.0.1", TRUSTED, "10.2.0.1"),
        ("10.0.0.1", "203.0.113.7;10.2.0.1", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7 10.2.0.1", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "for=203.0.113.7", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.007", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "203.0.113", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "0xcb007107", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "3405803783", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7/32", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "\uff12\uff10\uff13.0.113.7", TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "fe80::1%" + "x" * 60_000, TRUSTED, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7, " * 5_000 + "10.2.0.1", TRUSTED, "203.0.113.7"),
        ("10.0.0.1", "203.0.113.7" + ", 10.2.0.1" * 5_000, TRUSTED, "203.0.113.7"),
        ("10.0.0.1", "," * 60_000, TRUSTED, "10.0.0.1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_client_is_the_first_from_the_right_that_no_trusted_proxy_is(
    peer: str, forwarded_for: str, trusted: tuple[IPv4Network | IPv6Network, ...], client: str
) -> None:
    assert client_address(peer, forwarded_for, trusted) == client


async def test_a_key_for_a_network_passes_behind_a_trusted_proxy_and_nowhere_else(
    client: httpx.AsyncClient, servers: Servers
) -> None:
    key = await make_key(servers, networks=["203.0.113.0/24"])
    headers = {"x-api-key": key, "X-Forwarded-For": "198.51.100.1, 203.0.113.7"}
    assert (await client.get("/profile", headers=headers)).status_code == 403
    async with open_gateway(servers, echoes(), trusted_proxies=["127.0.0.0/8"]) as behind_a_proxy:
        assert (await behind_a_proxy.get("/profile", headers=headers)).status_code == 200
        headers["X-Forwarded-For"] = "203.0.113.7, 198.51.100.1"
        assert (await behind_a_proxy.get("/profile", headers=headers)).status_code == 403


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("::ffff:203.0.113.0/120", "203.0.113.7:51008"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("203.0.113.0/24", "[::ffff:203.0.113.7]:51008"),
        ("fe80::7%eth0", "fe80::7%eth1"),
        ("2001:db8::/32", "[2001:db8::7]:51008"),
    ],
)
async def test_an_address_is_in_its_network_however_both_are_written(
    servers: Servers, network: str, address: str
) -> None:
    key = await make_key(servers, networks=[network])
    # Behind proxies whose networks are written in odd ways too.
    proxies = ["::ffff:127.0.0.0/104", "fe80::1%eth0/128"]
    async with open_gateway(servers, echoes(), trusted_proxies=proxies) as client:
        for hops in (address, f"{address}, [fe80::1]:443"):
            headers = {"x-api-key": key, "X-Forwarded-For": hops}
            assert (await client.get("/profile", headers=headers)).status_code == 200
        headers = {"x-api-key": key, "X-Forwarded-For": "198.51.100.1:51008"}
        assert (await client.get("/profile", headers=headers)).status_code == 403


async def test_no_other_header_says_whose_request_it_is(servers: Servers) -> None:
    key = await make_key(servers, networks=["203.0.113.0/24"])
    there = "203.0.113.7"
    async with (
        open_gateway(servers, echoes()) as client,
        open_gateway(servers, echoes(), trusted_proxies=["127.0.0.0/8", "::1/128"]) as behind_a_proxy,
    ):
        for name, value in (
            ("Forwarded", f"for={there}"),
            ("X-Real-IP", there),
            ("X-Client-IP", there),
            ("X-Cluster-Client-IP", there),
            ("True-Client-IP", there),
            ("CF-Connecting-IP", there),
            ("X-Forwarded", there),
            ("X_Forwarded_For", there),
            ("X-Forwarded_For", there),
            ("X-Forwarded-For-Original", there),
        ):
            for gateway in (client, behind_a_proxy):
                response = await gateway.get("/profile", headers={"x-api-key": key, name: value})
                assert response.status_code == 403, name


async def test_several_headers_are_one_list(servers: Servers) -> None:
    key = await make_key(servers, networks=["203.0.113.0/24"])
    async with open_gateway(servers, echoes(), trusted_proxies=["127.0.0.0/8"]) as client:
        for first, second, status in (
            ("203.0.113.7", "127.0.0.1", 200),
            ("198.51.100.1", "203.0.113.7", 200),
            ("203.0.113.7", "198.51.100.1", 403),
            ("203.0.113.7", "", 403),
        ):
            headers = [("x-api-key", key), ("X-Forwarded-For", first), ("x-forwarded-for", second)]
            assert (await client.get("/profile", headers=headers)).status_code == status


def test_what_callers_send_does_not_stay_in_memory() -> None:
    tracemalloc.start()
    try:
        for number in range(500):
            long = f"{number:x}:" + "a" * 50_000
            client_address("10.0.0.1", long, TRUSTED)
            read_headers([(long.encode(), b""), (f"x-{number}".encode(), long.encode())])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000
