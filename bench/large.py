"""Does the cost of a request grow with the data? `python -m bench.large`.

Two Callboards, each with a MongoDB of its own: one with a thousand accounts, one with a million accounts and
five million shifts. They take turns at the same load.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import batched
