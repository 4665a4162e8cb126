"""What is sent, the same by both load generators: who joins, and who logs a shift."""

import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

PLACE = 1001
FIRST_PERSON = 1_000_000
PEOPLE = 5_000
"""Whom /connect and /profile ask for; the last fifth of them has no account."""
WITH_ACCOUNT = PEOPLE * 4 // 5
SERVERS = 1_000
"""Which log shifts; each may log 500 in a minute."""

_STRIDE = 7_919
"""People follow each other by this much, so that neighbours in an index are not neighbours in time."""

Kind = Literal["connect", "profile", "log"]


@dataclass(frozen=True)
class Traffic:
    """Requests of one kind to a port of 127.0.0.1; `share` is how many of them come in one turn of a mix.

    `connect` and `profile` ask for `people` people from `first` on, again and again. `log` sends shifts with
    an Idempotency-Key each; `people` there says after how many shifts the first person works again.
    """

    kind: Kind
    port: int
    headers: Mapping[str, str]
    first: int = FIRST_PERSON
    people: int = PEOPLE
    run: str = ""
    share: int = 1


def new_shifts(port: int, headers: Mapping[str, str], share: int = 1) -> Traffic:
    """Shifts of people who have worked nowhere so far."""
    now = time.time_ns()
    return Traffic("log", port, headers, first=now // 1000, people=10**9, run=f"{now:x}", share=share)


def request_maker(traffic: Traffic) -> Callable[[], bytes]:
    """Answers the next request, as bytes to send."""
    fixed = "".join(f"{name}: {value}\r\n" for name, value in traffic.headers.items())
    end = f" HTTP/1.1\r\nHost: 127.0.0.1:{traffic.port}\r\n{fixed}"
    counter = itertools.count()
    first, people = traffic.first, traffic.people
    if traffic.kind == "log":

        def log() -> bytes:
            number = next(counter)
            return (
                f"POST /log?place={PLACE}&id={first + number * _STRIDE % people}&duration=60&training=false"
                f"&server=server-{number % SERVERS}&ended_at={int(time.time())}{end}"
                f"Idempotency-Key: {traffic.run}-{number}\r\nContent-Length: 0\r\n\r\n"
            ).encode()

        return log

    path = _path(traffic)
    return lambda: f"GET {path}{first + next(counter) * _STRIDE % people}{end}\r\n".encode()


def lua(traffic: Traffic) -> str:
    """The same as a script for wrk, which prints what it counted as JSON."""
    headers = "\n".join(
        f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in traffic.headers.items()
    )
    make = (
        f"""\
request = function()
  local path = string.format(
    "/log?place={PLACE}&id=%.0f&duration=60&training=false&server=server-%d&ended_at=%d",
    {traffic.first} + number * {_STRIDE} % {traffic.people}, number % {SERVERS}, os.time())
  wrk.headers["Idempotency-Key"] = "{traffic.run}-" .. number
  number = number + 1
  return wrk.format("POST", path)
end"""
        if traffic.kind == "log"
        else f"""\
local asked = {{}}
request = function()
  local place = number * {_STRIDE} % {traffic.people}
  number = number + 1
  if not asked[place] then
    asked[place] = wrk.format("GET", string.format("{_path(traffic)}%.0f", {traffic.first} + place))
  end
  return asked[place]
end"""
    )
    return f"""\
{headers}
local number = 0
{make}
done = function(summary, latency, requests)
  local lost = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format(
    '\\n{{"requests": %d, "seconds": %.6f, "refused": %d, "lost": %d, "p50": %.3f, "p90": %.3f, "p99": %.3f, "p999": %.3f, "max": %.3f}}\\n',
    summary.requests, summary.duration / 1e6, summary.errors.status, lost, latency:percentile(50) / 1e3,
    latency:percentile(90) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3, latency.max / 1e3))
end
"""


def _path(traffic: Traffic) -> str:
    """What the id is put after."""
    return "/profile?id=" if traffic.kind == "profile" else f"/connect?place={PLACE}&training=false&id="
