"""What `callboard doctor` says of a Roblox key, its group and its roles."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from accounts.plugins.roblox_api import Introspection, OpenCloud, Role, Wait
from common.errors import Unavailable
from common.outgoing.providers import Urgency
from common.plugins import Finding

_PAGE = "https://create.roblox.com/dashboard/credentials"
_MOST_SKEW = timedelta(seconds=30)
_SOON = timedelta(days=14)


async def check_key(cloud: OpenCloud, group: int) -> AsyncIterator[Finding]:
    """Whether Roblox answers and knows the key, what the key may do, and whether our clock is right."""
    try:
        told = await cloud.introspect(Wait(Urgency.PLAYER, 5.0))
    except Unavailable:
        mend = "Let this machine reach apis.roblox.com (firewall, HTTPS_PROXY); see status.roblox.com."
        yield Finding(False, "Roblox does not answer.", mend)
        return
    if told.key is None:
        mend = f"Copy the key anew into CALLBOARD_ROBLOX_KEY, or make another one at {_PAGE}."
        yield Finding(False, f"Roblox does not know the key ({told.reason}).", mend)
    else:
        yield _is_valid(told.key)
        yield _expiry(told.key)
        for operation in ("read", "write"):
            yield _scope(told.key, operation, group)
    if (finding := _clock(told.date)) is not None:
        yield finding


def check_roles(
    managed: Mapping[int, str], given: Mapping[int, int], found: Mapping[int, int], roles: Sequence[Role]
) -> Iterator[Finding]:
    """Which role stands for each rank; and all that there are, should one be missing."""
    by_id = {role.id: role for role in roles}
    for rankid, name in managed.items():
        if rankid in found:
            role = by_id[found[rankid]]
            yield Finding(
                True,
                f'The rank "{name}" ({rankid}) is the role "{role.name}" (id {role.id}, rank {role.rank}).',
            )
        else:
            listed = "; ".join(
                f'"{role.name}" is {role.id} (rank {role.rank})'
                for role in sorted(roles, key=lambda role: role.rank)
            )
            mend = f"Give its role's id in plugins.options.roblox.roles. The group's roles: {listed}."
            what = f'The rank "{name}" ({rankid}) has no role'
            if rankid in given:
                number = given[rankid]
                is_rank = any(role.rank == number for role in roles)
                why = "a rank and no role id" if is_rank else "no id of a role of the group"
                what += f': {number} in plugins.options.roblox.roles."{name}" is {why}'
            yield Finding(False, f"{what}.", mend)


def _is_valid(key: Introspection) -> Finding:
    if not key.enabled:
        return Finding(False, "The key is disabled.", f"Enable it at {_PAGE}.")
    if key.expired:
        mend = f"Give it a later date at {_PAGE}; one without a date expires after 60 days without use."
        return Finding(False, "The key is expired.", mend)
    return Finding(True, "The key is valid.")


def _expiry(key: Introspection) -> Finding:
    if key.expires is None:
        return Finding(True, "The key has no date of expiry, and ends after 60 days without use.")
    expires = key.expires if key.expires.tzinfo else key.expires.replace(tzinfo=UTC)
    what = f"The key expires on {expires:%Y-%m-%d}."
    if expires - datetime.now(UTC) < _SOON:
        return Finding(True, what, f"Give it a later date at {_PAGE}.")
    return Finding(True, what)


def _scope(key: Introspection, operation: str, group: int) -> Finding:
    for scope in key.scopes:
        is_for_all = scope.groups is None and scope.users is None
        groups = {"*"} if is_for_all else {str(one) for one in scope.groups or ()}
        if scope.name == "group" and operation in (scope.operations or ()) and groups & {"*", str(group)}:
            return Finding(True, f"The key has the scope group:{operation} for group {group}.")
    mend = f"Add the API system groups with group:{operation} for this group to the key at {_PAGE}."
    return Finding(False, f"The key lacks the scope group:{operation} for group {group}.", mend)


def _clock(date: str | None) -> Finding | None:
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    ahead = datetime.now(UTC) - (theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC))
    if abs(ahead) <= _MOST_SKEW:
        return Finding(True, "This machine's clock is right.")
    seconds = abs(round(ahead.total_seconds()))
    what = f"This machine's clock is {seconds} s {'ahead' if ahead > timedelta() else 'behind'}."
    return Finding(False, what, "Have it set over the network, such as by: timedatectl set-ntp true.")
