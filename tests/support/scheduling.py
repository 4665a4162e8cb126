"""Which tests stay together where several processes run them."""

import re

from xdist.scheduler import LoadScopeScheduling

_FORM = re.compile(r"::\w+\[(one-process|processes)\b")


class ByFileAndForm(LoadScopeScheduling):
    """A process runs whole files; but tests of one form of the park, of whichever file, as it is started once."""

    def _split_scope(self, nodeid: str) -> str:
        form = _FORM.search(nodeid)
        return form[1] if form else nodeid.partition("::")[0]
