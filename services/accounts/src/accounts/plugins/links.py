"""What the plugins have in common that ask another company which Roblox account belongs to a Discord account."""

import logging
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import NamedTuple, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from accounts.models import Person
from accounts.plugins.memory import Memory
from accounts.plugins.stored import Links
from common.errors import Unavailable
from common.outgoing.providers import Answer, Budget, Complaints, Provider, Urgency, fit_to_show
from common.plugins import Finding, PluginContext
from common.query import Id

logger = logging.getLogger(__name__)

KNOW_LINKS_ONLY = frozenset({"bloxlink", "rover"})
"""The plugins that are made of what is here: of names they know nothing."""

_SECONDS = 1.9
_EXAMINE_SECONDS = 5.0


class LinkOptions(BaseModel):
    """The options of such a plugin: the Discord server that its key is for, and its part of the limits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    guild: Id
    replicas: int = Field(1, ge=1, le=20)


class LinkCompany(NamedTuple):
    """What there is to know of a company that tells links.

    `name` and `key_name` are for people, `path` is where a Discord id is put behind.
    """

    name: str
    key_name: str
    keys_page: str
    url: str
    headers: Mapping[str, str]
    path: str
    calls_per_minute: float


class _Link(BaseModel):
    """A link, or that there is none: an answer without an id, or with one that is null, empty or 0."""

    one: Id | None = Field(None, validation_alias="robloxID")
    other: Id | None = Field(None, validation_alias="robloxId")

    @field_validator("one", "other", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value in ("", 0, "0") and value is not False else value

    @property
    def user(self) -> int | None:
        return self.one or self.other


class _Error(BaseModel):
    reason: str = Field(validation_alias=AliasChoices("error", "message"))


class LinkIdentity:
    """Discord id to Roblox id, as a company tells, which is kept for when it is away; it knows nothing else."""

    def __init__(self, context: PluginContext, options: LinkOptions, company: LinkCompany) -> None:
        self._plugin = context.name
        self._guild = options.guild
        self._company = company
        self._links = Links(context.database)
        self._provider = Provider(company.name, company.url, company.headers)
        self._budget = Budget(company.calls_per_minute / options.replicas)
        self._memory = Memory[int, int]()
        self._complaints = Complaints()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._provider.close()

    async def by_id(self, user: int) -> Person | None:  # noqa: ARG002 - not asked of the company
        """None: such a company is asked for Discord accounts only."""
        return None

    async def by_username(self, username: str) -> Person | None:  # noqa: ARG002 - as above
        """None, as above."""
        return None

    async def by_discord(self, discord: int) -> int | None:
        """The Roblox id, as remembered or as the company tells now; None where it knows of no link."""
        told = self._memory.recall(discord)
        if told is not None:
            return told.value
        answer = await self._ask(discord, _SECONDS)
        if answer.status >= 400 and not _knows_nobody(answer):
            self._complain(answer)
            raise Unavailable(self._company.name)
        user = None if answer.status >= 400 else self._provider.read(_Link, answer).user
        if user is None:
            await self._links.forget(discord, self._plugin)
        else:
            await self._links.keep(discord, user, self._plugin)
        return self._memory.note(discord, user)

    async def examine(self) -> AsyncIterator[Finding]:
        """Whether the company answers, and accepts the key for the server."""
        name, guild = self._company.name, self._guild
        try:
            answer = await self._ask(guild, _EXAMINE_SECONDS)  # a valid id that no Discord account has
        except Unavailable:
            yield Finding(
                False, f"{name} does not answer.", "Let this machine reach it (firewall, HTTPS_PROXY)."
            )
            return
        said = f"{answer.status} {_reason(answer)}".strip()
        if answer.status in (401, 403):
            mend = (
                f"Make one at {self._company.keys_page} for the server in plugins.options.{self._plugin}.guild, "
                f"and set {self._company.key_name}."
            )
            yield Finding(False, f"{name} does not accept the key for server {guild} ({said}).", mend)
        elif answer.status < 300 or _knows_nobody(answer):
            yield Finding(True, f"{name} accepts the key for server {guild}.")
            yield Finding(True, f"Asked for an account that nobody has, {name} says: {said}.")
        else:
            yield Finding(False, f"{name} answers something else than a link: {said}.", "Is its URL right?")

    async def _ask(self, discord: int, seconds: float) -> Answer:
        return await self._provider.call(
            "GET",
            f"{self._company.path}{discord}",
            budget=self._budget,
            urgency=Urgency.DECISION,  # nobody else draws on this budget, so nothing is left for others
            seconds=seconds,
        )

    def _complain(self, answer: Answer) -> None:
        if not self._complaints.are_due():
            return
        name, reason = self._company.name, _reason(answer)
        if answer.status in (401, 403):
            logger.error(
                "%s does not accept the key %s (%d %s): no new link is learnt until it is mended; "
                '"callboard doctor" tells how',
                name,
                self._company.key_name,
                answer.status,
                reason,
            )
        else:
            logger.warning("%s answered %d: %s", name, answer.status, reason)


def _knows_nobody(answer: Answer) -> bool:
    # A web page is not theirs to say so, but of something in between, or of an address that is no more.
    return answer.status == 404 and answer.body.lstrip()[:1] in (b"", b"{")


def _reason(answer: Answer) -> str:
    """Why, in the company's words, made fit to be shown; "" where it gives none."""
    try:
        text = _Error.model_validate_json(answer.body).reason
    except ValidationError:
        return ""
    return fit_to_show(text).rstrip(".")
