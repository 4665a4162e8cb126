"""What the gateway reads from its environment."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from common.settings import ProcessSettings
from gateway.models import Network

BaseUrl = Annotated[
    str, StringConstraints(pattern=r"^https?://([^/?#@:\[\]]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$")
]


class GatewaySettings(ProcessSettings):
    """Settings of the gateway."""

    upstreams: dict[str, Annotated[list[BaseUrl], Field(min_length=1)]] = Field(
        {},
        description="where each service listens, as JSON: name to http or https URLs; else http://<name>:8000",
    )
    trusted_proxies: tuple[Network, ...] = Field(
        (), description="networks whose X-Forwarded-For is believed, as a JSON list"
    )
    metrics_host: str = Field(
        "127.0.0.1", description="address of /metrics, which is never on the public port"
    )
    metrics_port: int = Field(0, ge=0, le=65535, description="port of /metrics; 0 turns it off")
    tls_cert: Path | None = Field(None, description="certificate chain to serve HTTPS with")
    tls_key: Path | None = Field(None, validate_default=True, description="the certificate's private key")

    @field_validator("tls_key")
    @classmethod
    def _belongs_to_a_certificate(cls, key: Path | None, others: ValidationInfo) -> Path | None:
        if (key is None) != (others.data.get("tls_cert") is None):
            raise ValueError("expected together with CALLBOARD_TLS_CERT")
        return key
