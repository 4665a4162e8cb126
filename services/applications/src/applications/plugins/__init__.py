"""The plugin point of applications."""

from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

from common.plugins import PluginPoint


class Published(NamedTuple):
    """Where a text can be read, and the path of this Callboard where a copy of it can be read as well."""

    url: str
    copy: str


class Documents(AbstractAsyncContextManager[Any], Protocol):
    """`callboard.documents`: where the texts of applications are kept, and under which public URL.

    A plugin is entered when the service starts and left when it stops.
    """

    async def publish(self, text: str) -> str | Published:
        """Keep `text` for `applications.keep_days` days and answer the URL where it can be read.

        One that keeps a copy here, because the other place may hide or lose the text, answers a Published.

        Nobody may be able to guess the URL. One without a scheme is a path of this Callboard and is completed
        with the setting `public_url`. The upload waits for this call, so give up after 5 seconds at the
        latest. Raises `common.errors.Unavailable` when the text cannot be kept now (the upload is answered
        503); anything else that is raised counts as a fault of the plugin (500). The text is private: it
        belongs in no log and in no exception.
        """


DOCUMENTS = PluginPoint("documents", "where an application's text is kept, and its public URL", Documents)
