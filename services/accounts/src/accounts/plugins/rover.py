"""The plugin for a Discord server whose members are verified by RoVer.

Its API: https://registry.rover.link, with a key for one server (https://rover.link). `robloxId` comes as a number, or as text.
"""

from pydantic import Field

from accounts.plugins.links import LinkCompany, LinkIdentity, LinkOptions
from common.plugins import PluginContext

_CALLS_PER_MINUTE = 30  # not documented; clients count on 5 in 10 s


class RoverOptions(LinkOptions):
    """plugins.options.rover."""

    url: str = Field("https://registry.rover.link", pattern=r"^https?://\S+$")


def rover(context: PluginContext) -> LinkIdentity:
    """Links as RoVer tells them."""
    options = context.options(RoverOptions)
    company = LinkCompany(
        name="RoVer",
        key_name="CALLBOARD_ROVER_KEY",
        keys_page="https://rover.link",
        url=options.url,
        headers={"Authorization": f"Bearer {context.secret('rover_key').get_secret_value()}"},
        path=f"/api/guilds/{options.guild}/discord-to-roblox/",
        calls_per_minute=_CALLS_PER_MINUTE,
    )
    return LinkIdentity(context, options, company)
