"""Where the client finds a server, and what keeps it from connecting."""

import asyncio
import shutil
import socket
import ssl
from asyncio.subprocess import DEVNULL
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from callboard.servers import free_port
from common.outgoing.client import Client, NotConnected
from tests.outgoing.wire import OK, PATIENT, SOON, ask, limits, listening, uses_again, uses_another
from tests.support import wait_until

# Names, IPv6 and HTTPS


async def test_a_host_is_found_by_its_name() -> None:
    async with listening() as server:
        with server.client("localhost") as client:
            request = ask(client)
            wire = await server.accept()
            assert b"\r\nhost: localhost:%d\r\n" % server.port in await wire.request()
            await wire.say(OK)
            await request


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
async def test_an_address_may_be_of_ipv6() -> None:
    async with listening("::1") as server:
        with server.client("[::1]") as client:
            request = ask(client)
            wire = await server.accept()
            assert b"\r\nhost: [::1]:%d\r\n" % server.port in await wire.request()
            await wire.say(OK)
            await request


async def certificate(folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    making = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        *("-keyout", key, "-out", cert),
        stderr=DEVNULL,
    )
    assert await making.wait() == 0
    return cert, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
async def test_https_reaches_a_server_whose_certificate_is_trusted_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = await certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    async with listening("127.0.0.1", tls=tls) as server:
        with server.client("localhost") as client, pytest.raises(NotConnected):
            await ask(client)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        with server.client() as client, pytest.raises(NotConnected):  # the certificate is of a name
            await ask(client)
        with server.client("localhost") as client:
            request = ask(client, method="POST", body=bytes(2**22))
            wire = await server.accept()
            await wire.request(2**22)
            await wire.say(OK)
            assert (await request)[2] == b"{}"
            await uses_again(client, wire)
            request = ask(client)
            await wire.request()
            await wire.say(b"HTTP/1.1 200 OK\r\n\r\nall")
            wire.hang_up()
            assert (await request)[2] == b"all"
            await uses_another(client, server, wire)


# Not connected


async def test_a_server_that_refuses_connections_is_not_connected() -> None:
    with (
        closing(Client(f"http://127.0.0.1:{free_port()}", limits=PATIENT)) as client,
        pytest.raises(NotConnected),
    ):
        await ask(client)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64])
async def test_a_name_that_is_none_is_not_connected(host: str) -> None:
    with closing(Client(f"http://{host}:8000", limits=PATIENT)) as client, pytest.raises(NotConnected):
        await ask(client)


@pytest.mark.parametrize("limit", ["the limit", "the request", "the share of this attempt"])
async def test_connecting_takes_its_time_and_no_longer_than_the_request_or_its_share(limit: str) -> None:
    async with listening(scheme="https") as server:  # but it answers no handshake
        connect_seconds = 0.1 if limit == "the limit" else SOON
        with (
            server.client(limits=limits(connect_seconds=connect_seconds)) as client,
            pytest.raises(NotConnected),
        ):
            await ask(
                client,
                seconds=0.1 if limit == "the request" else SOON,
                share=0.1 if limit == "the share of this attempt" else SOON,
            )


@pytest.mark.parametrize("how", ["closed", "spoken on", "no longer wanted"])
async def test_a_connection_that_ends_before_it_is_used_was_not_connected(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async with listening() as server:
        loop = asyncio.get_running_loop()
        connect = loop.create_connection

        async def connect_and_meet_the_end(*given: Any, **named: Any) -> Any:
            transport, connection = await connect(*given, **named)
            wire = await server.accept()
            if how == "no longer wanted":
                client.close()
                return transport, connection
            if how == "closed":
                wire.hang_up()
            else:
                await wire.say(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
            await wait_until(lambda: not connection.is_open)
            return transport, connection

        monkeypatch.setattr(loop, "create_connection", connect_and_meet_the_end)
        with server.client() as client, pytest.raises(NotConnected):
            await ask(client)
