"""What of a request is read, and what of it a service may see."""

import asyncio
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import quote_from_bytes, unquote_plus

from starlette.types import Receive

from common.errors import InvalidQuery
from common.outgoing.message import Header
from common.query import parse_pairs
from gateway.errors import BodyTooLarge, BodyTooSlow, UnsupportedEncoding
from gateway.models import Network

BODY_SECONDS = 10.0
_LONGEST_NAME = 64
_LONGEST_ADDRESS = 72
"""Beyond these, what callers send is not kept in the caches below."""
_DISCARDED_BYTES = 1 << 20
"""Read beyond the limit before a large body is refused: most clients read no answer before all is sent."""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_FORWARDED = HOP_BY_HOP | {
    b"accept-encoding",
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"expect",
    b"forwarded",
    b"host",
    b"traceparent",
    b"tracestate",
    b"x-api-key",
    b"x-real-ip",
    b"x-request-id",
}


def read_headers(raw: Iterable[Header]) -> tuple[dict[str, str], list[Header]]:
    """The headers by name, repeated ones joined, and those that a service may see."""
    headers: dict[str, str] = {}
    forwarded: list[Header] = []
    for header in raw:
        read = _read_name if len(header[0]) <= _LONGEST_NAME else _read_name.__wrapped__
        name, is_forwarded = read(header[0])
        value = header[1].decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if is_forwarded:
            forwarded.append(header)
    connection = headers.get("connection", "keep-alive").lower()
    if connection not in ("keep-alive", "close"):
        for_this_hop = {name.strip().encode("latin-1") for name in connection.split(",")}
        forwarded = [header for header in forwarded if header[0] not in for_this_hop]
    return headers, forwarded


@lru_cache(1024)
def _read_name(name: bytes) -> tuple[str, bool]:
    # An underscore can pass for a hyphen further on, so such a name could smuggle in one of the others.
    is_kept = name in _NOT_FORWARDED or b"_" in name or name.startswith((b"x-callboard-", b"x-forwarded-"))
    return name.decode("latin-1"), not is_kept


def read_query(raw: bytes) -> tuple[Sequence[tuple[str, str]], bytes]:
    """The parameters, and the query that a service may see: without `key`, else as it came."""
    if not raw.isascii():
        raw = quote_from_bytes(raw, safe=bytes(range(128))).encode()
    pairs = parse_pairs(raw.decode())
    if any(name == "key" for name, _ in pairs):
        parts = raw.split(b"&")
        raw = b"&".join(part for part in parts if unquote_plus(part.partition(b"=")[0].decode()) != "key")
    return pairs, raw


def client_address(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """The client: the peer, or the address in front of the trusted proxies, which are read from the right.

    An entry that is no address (such as `unknown`) ends the reading: the proxy that wrote it counts as the client,
    as nothing further left can be trusted.
    """
    text, address = _parse_address(peer)
    hops = forwarded_for.split(",")
    while hops and address and any(address in network for network in trusted):
        hop = hops.pop().strip()
        if len(hop) > _LONGEST_ADDRESS:
            break
        before_text, before = _parse_hop(hop)
        if before is None:
            break
        text, address = before_text, before
    return text


_HOP = re.compile(
    r"""("?)
    (?: \[ ([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]* (?:%[\w.-]+)?) \] (?: :[0-9]{1,5} )?
      | ([0-9.]+) (?: :[0-9]{1,5} )?
      | ([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]* (?:%[\w.-]+)?)
    ) \1""",
    re.ASCII | re.VERBOSE,
)
"""An address as proxies write it: some add the port, then IPv6 stands in brackets, and some add quotes."""

_Parsed = tuple[str, IPv4Address | IPv6Address | None]


@lru_cache(4096)
def _parse_hop(text: str) -> _Parsed:
    """An entry of X-Forwarded-For, without its port; None for what is no address."""
    found = _HOP.fullmatch(text)
    return _parse_address(found[2] or found[3] or found[4]) if found else (text, None)


@lru_cache(4096)
def _parse_address(text: str) -> _Parsed:
    """The address, and how it is written; None for what is no address."""
    try:
        address = ip_address(text)
    except ValueError:
        return text, None
    if isinstance(address, IPv6Address):
        # Without its zone, which means something on the sender's machine only.
        address = address.ipv4_mapped or IPv6Address(int(address))
    return str(address), address


async def read_body(receive: Receive, headers: Mapping[str, str], limit: int) -> bytes:
    """The body, unpacked; the limit counts what arrives and what it unpacks to.

    Raises BodyTooLarge, BodyTooSlow, UnsupportedEncoding and InvalidQuery.
    """
    if "content-length" not in headers and "transfer-encoding" not in headers:
        return b""
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip"):
        raise UnsupportedEncoding
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _receive_body(receive, limit)
    except TimeoutError:
        raise BodyTooSlow from None
    return _unpack(body, limit) if encoding == "gzip" else body


async def _receive_body(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidQuery("body ends early")
        part = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > limit + _DISCARDED_BYTES:
            raise BodyTooLarge(unread=more)
    if size > limit:
        raise BodyTooLarge
    return b"".join(parts)


def _unpack(body: bytes, limit: int) -> bytes:
    gzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        unpacked = gzip.decompress(body, limit + 1)
    except zlib.error:
        raise InvalidQuery("body is not gzip") from None
    if len(unpacked) > limit:
        raise BodyTooLarge
    if not gzip.eof or gzip.unused_data:
        raise InvalidQuery("body is not gzip")
    return unpacked
