"""Whose request it is: what stands in X-Forwarded-For counts only from proxies that are trusted."""

from ipaddress import IPv4Network, IPv6Network, ip_network

import httpx
import pytest

from gateway.incoming import client_address
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
        ("10.0.0.1", "203.0.113.7, 10.2.0.1:443", TRUSTED, "10.0.0.1"),
        ("fd00::1", "2001:db8::7", TRUSTED, "2001:db8::7"),
        ("::ffff:10.0.0.1", "::ffff:203.0.113.7", TRUSTED, "203.0.113.7"),
        ("::ffff:10.0.0.1", "203.0.113.7", (), "10.0.0.1"),
        ("", "203.0.113.7", TRUSTED, ""),
    ],
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
