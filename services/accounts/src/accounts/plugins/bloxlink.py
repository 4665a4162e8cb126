"""The plugin for a Discord server whose members are verified by Bloxlink.

Its API: v4, with a key for one server (https://blox.link/dashboard/developers). `robloxID` is what it answers,
`robloxId` what its own client library expects.
"""

from pydantic import Field

from accounts.plugins.links import LinkCompany, LinkIdentity, LinkOptions
from common.plugins import PluginContext

_CALLS_PER_MINUTE = 60  # not documented for v4; what was allowed before


class BloxlinkOptions(LinkOptions):
    """plugins.options.bloxlink."""

    url: str = Field("https://api.blox.link", pattern=r"^https?://\S+$")


def bloxlink(context: PluginContext) -> LinkIdentity:
    """Links as Bloxlink tells them."""
    options = context.options(BloxlinkOptions)
    company = LinkCompany(
        name="Bloxlink",
        key_name="CALLBOARD_BLOXLINK_KEY",
        keys_page="https://blox.link/dashboard/developers",
        url=options.url,
        headers={"Authorization": context.secret("bloxlink_key").get_secret_value()},
        path=f"/v4/public/guilds/{options.guild}/discord-to-roblox/",
        calls_per_minute=_CALLS_PER_MINUTE,
    )
    return LinkIdentity(context, options, company)
