"""What the clients saw, on disk: one line when a request goes out, one when its outcome is known.

The lines are written as they happen, so that they tell the same whatever becomes of the test itself.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["ok", "refused", "unknown"]
"""Acknowledged; refused for good; or nobody knows whether it took effect."""

Kind = Literal["log", "grant", "revoke", "approve", "upload", "connect", "profile"]


@dataclass(frozen=True)
class Operation:
    """One thing that a client wants done, however often it has to ask.

    `expected`: "ok" must never be refused, "refused" must never be acknowledged.
    """

    id: str
    kind: Kind
    params: Mapping[str, Any]
    idempotency_key: str | None = None
    body: Mapping[str, str] | None = None
    expected: Outcome | None = None


@dataclass
class Attempt:
    """One request of an operation; times in Unix seconds."""

    name: str
    invoked_at: float
    outcome: Outcome = "unknown"
    ended_at: float | None = None
    status: int | None = None
    text: str = ""
    is_replay: bool = False


def moderator(operation: Operation, attempt: Attempt) -> str:
    """A Discord id that nobody has: of this request alone, or of all that have the operation's Idempotency-Key."""
    name = operation.id if operation.idempotency_key else attempt.name
    return str(10**18 + int.from_bytes(sha256(name.encode()).digest()[:7]))


@dataclass
class Told:
    """An operation and its requests, as a history tells it."""

    operation: Operation
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """Acknowledged once is acknowledged; refused means that no request may have taken effect."""
        outcomes = {attempt.outcome for attempt in self.attempts}
        return "ok" if "ok" in outcomes else "unknown" if "unknown" in outcomes else "refused"

    def by_moderator(self) -> dict[str, Attempt]:
        """The requests that can be told apart by their moderator; those with one Idempotency-Key count as one."""
        if not self.operation.idempotency_key:
            return {moderator(self.operation, attempt): attempt for attempt in self.attempts}
        first, last = self.attempts[0], self.attempts[-1]
        whole = replace(first, name=self.operation.id, outcome=self.outcome, ended_at=last.ended_at)
        return {moderator(self.operation, first): whole}


class Recorder:
    """Writes the history of one client."""

    def __init__(self, folder: Path, client: str) -> None:
        self._file = (folder / f"{client}.jsonl").open("w", encoding="utf-8", buffering=1)
        self._known: set[str] = set()
        self._attempts: dict[str, int] = {}

    def invoke(self, operation: Operation) -> Attempt:
        """Note that a request goes out; its name is unlike any other's."""
        number = self._attempts[operation.id] = self._attempts.get(operation.id, 0) + 1
        attempt = Attempt(f"{operation.id}.{number}", time.time())
        line = {
            "what": "invoke",
            "operation": operation.id,
            "attempt": attempt.name,
            "at": attempt.invoked_at,
        }
        if operation.id not in self._known:
            self._known.add(operation.id)
            line |= {name: value for name, value in vars(operation).items() if name != "id"}
        self._write(line)
        return attempt

    def end(self, attempt: Attempt) -> None:
        """Note what became of a request."""
        self._write(
            {
                "what": attempt.outcome,
                "attempt": attempt.name,
                "at": attempt.ended_at,
                "status": attempt.status,
                "text": attempt.text,
                "is_replay": attempt.is_replay,
            }
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")


def read_histories(folder: Path) -> list[Told]:
    """What all clients tell, each one's operations in their order; a request without an end is unknown."""
    return [told for path in sorted(folder.glob("*.jsonl")) for told in _read(path)]


def _read(path: Path) -> Iterator[Told]:
    operations: dict[str, Told] = {}
    attempts: dict[str, Attempt] = {}
    with path.open(encoding="utf-8") as lines:
        for text in lines:
            line = json.loads(text)
            what, at, name = line.pop("what"), line.pop("at"), line.pop("attempt")
            if what == "invoke":
                operation = line.pop("operation")
                if operation not in operations:
                    operations[operation] = Told(Operation(operation, **line))
                attempts[name] = Attempt(name, at)
                operations[operation].attempts.append(attempts[name])
            else:
                attempt = attempts[name]
                attempt.outcome, attempt.ended_at = what, at
                attempt.status, attempt.text = line["status"], line["text"]
                attempt.is_replay = line["is_replay"]
    yield from operations.values()
