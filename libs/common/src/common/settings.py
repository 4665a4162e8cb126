"""What the gateway and every service read from their environment.

Each setting is the environment variable `CALLBOARD_<NAME>`, or a file of that name (in lower case) in the
folder that `CALLBOARD_SECRETS_DIR` names; the variable wins.
"""

import os
import re
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from common.chassis.limits import ChassisLimits, HopLimits
from common.errors import ConfigurationError
from common.limits import Limits, limits_of, must_be_below
from common.messaging.limits import BusLimits, ConsumerLimits
from common.outgoing.limits import OutgoingLimits
from common.storage.limits import StorageLimits
from common.text_files import read_text


class _SecretFiles(SecretsSettingsSource):
    """The files of the folder, without what Windows tools put before and behind a text."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        try:
            value, key, is_complex = super().get_field_value(field, field_name)
        except (OSError, UnicodeDecodeError):
            read_text(Path(str(self.secrets_dir)) / f"callboard_{field_name}")  # says which file and why
            raise
        return value and value.removeprefix("\ufeff").strip(), key, is_complex


class ProcessSettings(BaseSettings):
    """What the gateway and every service read."""

    model_config = SettingsConfigDict(env_prefix="CALLBOARD_", frozen=True, extra="ignore")

    mongo_url: SecretStr = Field(description="MongoDB connection string; must name a replica set")
    internal_token: SecretStr = Field(
        min_length=32, description="what calls between gateway and services carry"
    )
    config: Path = Field(Path("callboard.toml"), description="the group's configuration file")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    patience: float = Field(
        1.0, ge=0.1, le=100, description="how many times longer is waited than usual, for a slow machine"
    )
    outgoing: OutgoingLimits = limits_of(OutgoingLimits)
    hop: HopLimits = limits_of(HopLimits)
    chassis: ChassisLimits = limits_of(ChassisLimits)
    storage: StorageLimits = limits_of(StorageLimits)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least level logged")
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?$",
        description="OpenTelemetry collector that gets traces (OTLP over HTTP), without `/v1/traces`",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _limits_that_are_not_given_keep_their_patience(cls, value: Any, info: ValidationInfo) -> Any:
        room = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, dict) and isinstance(room, type) and issubclass(room, Limits):
            return room.with_patience(info.data.get("patience", 1.0)).model_dump() | value
        return value

    @model_validator(mode="after")
    def _limits_fit_together(self) -> Self:
        must_be_below(
            ("an operation of MongoDB", self.storage.answer_seconds),
            ("the gateway's time limit", self.hop.request_seconds),
        )
        must_be_below(
            ("the wait for another request with the same Idempotency-Key", self.storage.same_act_seconds),
            ("the gateway's time limit", self.hop.request_seconds),
        )
        must_be_below(
            ("an idle connection to a service", self.outgoing.idle_seconds),
            ("the time that a service which stops still answers", self.chassis.drain_seconds),
        )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - no such file is read
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - replaced
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then variables, then files."""
        folder = os.environ.get("CALLBOARD_SECRETS_DIR")
        return init_settings, env_settings, _SecretFiles(settings_cls, folder)


class Settings(ProcessSettings):
    """Settings of the chassis; a service adds its own in a subclass."""

    nats_url: SecretStr = Field(description="NATS server, credentials included; several separated by commas")
    stream_max_age_days: int = Field(30, ge=1, description="days that NATS keeps an event")
    stream_max_bytes: int = Field(
        1 << 30, ge=1 << 20, description="bytes that NATS keeps; full refuses new events"
    )
    stream_replicas: int = Field(1, ge=1, le=5, description="NATS servers that hold each event")
    bus: BusLimits = limits_of(BusLimits)
    consumer: ConsumerLimits = limits_of(ConsumerLimits)

    @model_validator(mode="after")
    def _limits_of_events_fit_together(self) -> Self:
        must_be_below(
            ("waiting for a locked document", self.consumer.locked_seconds),
            ("an operation of MongoDB", self.storage.answer_seconds),
        )
        return self


S = TypeVar("S", bound=ProcessSettings)


def read_settings(model: type[S], **given: Any) -> S:
    """The settings of one service, `given` ones before those of the environment.

    Raises ConfigurationError that names the variable and what was expected.
    """
    try:
        return model(**given)
    except SettingsError as error:
        if isinstance(error.__cause__, ConfigurationError):
            raise error.__cause__ from None
        raise
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        # Without pydantic's own names for what it tried.
        name = "_".join(str(part) for part in first["loc"] if re.fullmatch(r"\w+", str(part))).upper()
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"CALLBOARD_{name}: {reason}." if name else f"Limits: {reason}.") from error


def read_secret(name: str) -> SecretStr | None:
    """A secret that only some groups need, found as settings are; None where there is none."""
    if value := os.environ.get(f"CALLBOARD_{name.upper()}"):
        return SecretStr(value)
    if folder := os.environ.get("CALLBOARD_SECRETS_DIR"):
        file = Path(folder) / f"callboard_{name.lower()}"
        if file.is_file() and (text := read_text(file).strip()):
            return SecretStr(text)
    return None
