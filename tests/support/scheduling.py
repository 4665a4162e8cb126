"""Which tests stay together where several processes run them."""

import re

from xdist.scheduler import LoadScopeScheduling

_FORM = re.compile(r"::\w+\[(one-process|processes)\b")
_FAULT_RUNS = "tests/faults/test_faults.py"


class ByFileAndForm(LoadScopeScheduling):
    """A process runs whole files; but tests of one form of the park, of whichever file, as it is started once.

    Each fault run is one of its own: it shares nothing with the others, and takes the longest.
    """

    def _split_scope(self, nodeid: str) -> str:
        if form := _FORM.search(nodeid):
            return form[1]
        file = nodeid.partition("::")[0]
        return nodeid if file == _FAULT_RUNS else file
