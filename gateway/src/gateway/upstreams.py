"""The services behind the gateway, by name, and what of their replies a caller sees."""

from common.outgoing.local import Apps
from common.outgoing.message import Answer, Outgoing
from common.outgoing.upstream import Upstream, open_upstream
from gateway.incoming import HOP_BY_HOP
from gateway.settings import GatewaySettings

_NOT_ANSWERED = HOP_BY_HOP | {b"date", b"server", b"x-request-id"}


class Upstreams:
    """The services by name. Enter it before the first call."""

    def __init__(self, settings: GatewaySettings, apps: Apps) -> None:
        self._settings = settings
        self._apps = apps
        self._open: dict[str, Upstream] = {}

    async def __aenter__(self) -> "Upstreams":
        for name in {**self._apps, **self._settings.upstreams}:
            self._upstream(name)
        return self

    async def __aexit__(self, *_: object) -> None:
        for upstream in self._open.values():
            await upstream.close()

    async def send(self, service: str, request: Outgoing) -> Answer:
        """The service's reply, as a caller may see it.

        Raises Unavailable when no replica can be reached, ServiceLost when one broke off, and ServiceSlow.
        """
        upstream = self._open.get(service) or self._upstream(service)
        answer = await upstream.send(request)
        answer.headers[:] = [header for header in answer.headers if header[0] not in _NOT_ANSWERED]
        return answer

    def _upstream(self, name: str) -> Upstream:
        urls = self._settings.upstreams.get(name, [f"http://{name}:8000"])
        token = self._settings.internal_token.get_secret_value()
        self._open[name] = open_upstream(
            name, urls, apps=self._apps, token=token, limits=self._settings.outgoing
        )
        return self._open[name]
