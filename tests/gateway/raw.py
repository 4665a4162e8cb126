"""Requests and answers as they stand on the wire: a client library would tidy them up."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.gateway.builders import Echo

LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
"""A request whose answer, 200, shows that the server reads where we write: it is the last on its connection."""


@dataclass(frozen=True)
class Answer:
    """One answer; `headers` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Gate:
    """A gateway behind a port, in front of echoes, and a key of every right but Roblox's."""

    url: str
    key: str
    apps: dict[str, Echo]

    def request(self, target: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
        """A request with this key and exactly these headers besides."""
        lines = [f"{method} {target} HTTP/1.1", "Host: x", f"x-api-key: {self.key}", *headers, "", ""]
        return "\r\n".join(lines).encode() + body

    def upload(self, *headers: str, body: bytes) -> bytes:
        """A request to a route that takes a body."""
        return self.request("/application/upload", *headers, method="POST", body=body)

    async def ask(self, *parts: bytes) -> list[Answer]:
        """What is answered to these bytes."""
        return await ask(self.url, *parts)

    @property
    def seen(self) -> list[dict[str, Any]]:
        """What reached the services, whichever."""
        return [seen for app in self.apps.values() for seen in app.seen]

    def forget(self) -> None:
        """Let nothing have reached them."""
        for app in self.apps.values():
            app.seen.clear()


async def ask(url: str, *parts: bytes, seconds: float = 60) -> list[Answer]:
    """Everything that the server answers to these bytes until it closes the connection.

    Each part but the first is sent once something came back for the one before. Raises TimeoutError when the
    connection stays open.
    """
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    received = b""
    try:
        async with asyncio.timeout(seconds):
            with suppress(ConnectionError):  # a server may close with bytes of ours unread
                for number, part in enumerate(parts):
                    received += await reader.read(65536) if number else b""
                    writer.write(part)
                    await writer.drain()
                received += await read_all(reader)
    finally:
        writer.close()
    return answers_in(received)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends, which a server may do with bytes of ours unread."""
    received = b""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            received += data
    return received


def answers_in(received: bytes) -> list[Answer]:
    """The answers that follow each other in these bytes; none of them to HEAD."""
    answers = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b""
            while size := int(received[: received.index(b"\r\n")], 16):
                start = received.index(b"\r\n") + 2
                body += received[start : start + size]
                received = received[start + size + 2 :]
            received = received[len(b"0\r\n\r\n") :]
        else:
            length = int(headers.get("content-length", 0))
            body, received = received[:length], received[length:]
        answers.append(Answer(int(status.split()[1]), headers, body))
    return answers


def statuses(answers: list[Answer]) -> list[int]:
    """Their statuses, in their order."""
    return [answer.status for answer in answers]
