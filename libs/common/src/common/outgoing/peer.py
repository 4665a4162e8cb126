"""Calls from one service to another's internal routes."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from common.errors import ServiceError, Unavailable
from common.logs import key_name, request_id
from common.outgoing.errors import ServiceLost, ServiceSlow
from common.outgoing.headers import KEY_NAME_HEADER, REQUEST_ID_HEADER
from common.outgoing.limits import OutgoingLimits
from common.outgoing.local import Apps
from common.outgoing.message import Answer, Outgoing
from common.outgoing.upstream import open_upstream
from common.tracing import TRACEPARENT_HEADER, traceparent

_JSON = (b"content-type", b"application/json")


class Peer:
    """Another service, at `urls` (several separated by commas). Make it while the event loop runs, and close it."""

    def __init__(self, name: str, urls: str, token: str, apps: Apps, limits: OutgoingLimits) -> None:
        self.name = name
        each = [url.strip().rstrip("/") for url in urls.split(",")]
        self._upstream = open_upstream(name, each, apps=apps, token=token, limits=limits)

    async def get(self, path: str, *, seconds: float = 2.0, **params: Any) -> dict[str, Any]:
        """The JSON reply to GET `path`, which may be asked of several replicas. Raises as `post` does."""
        query = urlencode(params, quote_via=quote).encode()
        return await self._call(Outgoing("GET", path, query, _identity(), b"", seconds, repeatable=True))

    async def post(
        self, path: str, body: Mapping[str, Any], *, seconds: float = 5.0, repeatable: bool = False
    ) -> dict[str, Any]:
        """The JSON reply to POST `path`; `repeatable` says that sending it twice does no harm.

        Raises Unavailable when no replica answers in `seconds`, and the other service's own ServiceError when it
        refuses.
        """
        headers = [*_identity(), _JSON]
        text = json.dumps(body).encode()
        return await self._call(Outgoing("POST", path, b"", headers, text, seconds, repeatable))

    async def close(self) -> None:
        """Close the connections."""
        await self._upstream.close()

    async def _call(self, request: Outgoing) -> dict[str, Any]:
        try:
            answer = await self._upstream.send(request)
        except (ServiceLost, ServiceSlow) as error:
            raise Unavailable(self.name) from error
        return self._read(answer)

    def _read(self, answer: Answer) -> dict[str, Any]:
        if answer.status in (500, 503, 504):
            raise Unavailable(self.name)
        try:
            body: dict[str, Any] = json.loads(answer.body)
        except ValueError as error:  # of something in between, or of a wrong URL
            raise Unavailable(self.name) from error
        if answer.status >= 400:
            raise ServiceError(answer.status, body.get("message"), discord=body.get("discord"))
        return body


def _identity() -> list[tuple[bytes, bytes]]:
    """The request for which this call is made, for the other service's log and trace."""
    return [
        (name.encode(), value.encode("latin-1"))  # as it was decoded when it came
        for name, value in (
            (REQUEST_ID_HEADER, request_id.get()),
            (KEY_NAME_HEADER, key_name.get()),
            (TRACEPARENT_HEADER, traceparent.get()),
        )
        if value
    ]
