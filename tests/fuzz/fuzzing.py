"""Schemathesis over a running service: what it finds wrong, and how far it came."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder

Values = Mapping[str, Sequence[Any]]
"""By parameter, header or field of a body: values that mean something, and so lead further than others."""

_HOW_OFTEN_KNOWN = 0.8
_ONE_OF = {"id", "username", "discord"}


@dataclass
class Findings:
    """`faults` by what is wrong, each with a request that shows it and its answer; the statuses seen by "METHOD /path"."""

    faults: dict[str, str] = field(default_factory=dict)
    statuses: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def __str__(self) -> str:
        return "\n\n".join(f"{fault}\n{request}" for fault, request in self.faults.items())

    def note(self, seen: ScenarioRecorder) -> None:
        """Add what a scenario has shown."""
        for case, interaction in seen.interactions.items():
            if interaction.response:
                operation = seen.cases[case].value.operation.label
                self.statuses[operation].add(interaction.response.status_code)
        for case, checks in seen.checks.items():
            for check in checks:
                if check.failure_info:
                    failure, answer = check.failure_info.failure, seen.interactions[case].response
                    text = f"{failure.operation}: {failure.title}: {failure.message}"
                    shown = f"{answer.status_code} {answer.text}" if answer else "no answer"
                    self.faults.setdefault(text, f"{check.failure_info.code_sample}\n{shown}")


def fuzz(url: str, headers: Mapping[str, str], values: Values, examples: int) -> Findings:
    """Send what the service at this URL describes, and much that it does not, always with these headers.

    `examples` are made per route besides the systematic ones, the same each time.
    """
    config = schemathesis.Config.from_dict(
        {
            "seed": 1,
            "base-url": url,
            "headers": headers,
            "continue-on-failure": True,
            "generation": {
                "max-examples": examples,
                "deterministic": True,
                "database": "none",
                # Keys are only in `headers`.
                "with-security-parameters": False,
            },
            # Whether a user exists, for one, is nothing that a description can tell.
            "checks": {"positive_data_acceptance": {"enabled": False}},
            # Somebody who only ever worked has an account, but no rank that could be set: this is how it is told.
            "operations": [
                {
                    "include-path": "/application/approve",
                    "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", "502"]}},
                }
            ],
        }
    )
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config, headers=dict(headers))

    @schema.hook("map_case")
    def lead_further(_: schemathesis.HookContext, case: Any) -> Any:
        return _lead_further(case, values)

    findings = Findings()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            findings.note(event.recorder)
        elif isinstance(event, events.NonFatalError):
            findings.faults.setdefault(f"{event.label}: {event.value!r}", event.info.format())
        elif isinstance(event, events.FatalError):
            raise event.exception
    return findings


def _lead_further(case: Any, values: Values) -> Any:
    """Put known values in the place of most that are not themselves what the case tries."""
    dice = random.Random(f"{case.query} {case.headers} {case.body}")  # noqa: S311 - the same for the same case
    tried = getattr(case.meta.phase.data, "parameter", None)
    wrong = {part for part, how in case.meta.components.items() if not how.mode.is_positive and tried is None}

    def known(part: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: dice.choice(values[name])
            if name in values and name != tried and dice.random() < _HOW_OFTEN_KNOWN
            else value
            for name, value in part.items()
        }

    # Where several parameters are wrong together, none is told apart, and one that is put right leaves no fault.
    if case.query and ParameterLocation.QUERY not in wrong:
        case.query = known(case.query)
    if case.headers and ParameterLocation.HEADER not in wrong:
        case.headers.update(known(case.headers))
    if isinstance(case.body, dict) and case.meta.generation.mode.is_positive:
        case.body = known(case.body)
    is_asked = {one.name for one in case.operation.query} >= _ONE_OF
    if case.query and is_asked and ParameterLocation.QUERY not in wrong:
        # Exactly one of them is asked for, which a description cannot tell either.
        given = sorted(_ONE_OF & {*case.query}) or ["username"]
        kept = tried if tried in given else "username" if "username" in given else dice.choice(given)
        value = case.query.get(kept) or dice.choice(values["username"])
        case.query = {name: one for name, one in case.query.items() if name not in _ONE_OF} | {kept: value}
    if "place" in (case.query or {}) and str((case.headers or {}).get("Roblox-Id")).isdecimal():
        case.headers["Roblox-Id"] = str(case.query["place"])
    return case
