"""The passwords of a system in containers: `python -m callboard.container_secrets DIR DATA [NAME...]`.

DIR has one folder per reader: each is a volume that only this command and its reader mount, so nobody can read
the passwords of others. DATA has the volumes of MongoDB and NATS. docker-compose.yml runs it before all else: what is
missing is made, and so are those of each NAME, again: `internal_token`, or whose users of MongoDB and NATS get others.
"""

import json
import os
import secrets
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from callboard.rights import OPS, nats_subjects, nats_users
from callboard.servers import REPLICA_SET
from callboard.services import DATABASES

ADMIN = "admin"
"""Who makes the other users of MongoDB, and the folder with all of their passwords."""

MONGO, NATS = "mongo:27017", "nats:4222"
_CALLBOARD_ID, _MONGO_ID, _NATS_ID = 10001, 10002, 10003  # of users and groups; see docker-compose.yml

_TOKEN = "internal_token"  # noqa: S105 - the name of it

Passwords = Mapping[str, Mapping[str, str]]
"""Of "mongo" and "nats" by user, and of "other" things."""


def write_secrets(folder: Path, renewed: Collection[str] = ()) -> None:
    """Make the passwords that are not there yet or are to be others, and write what each reader needs of them."""
    passwords = _complete(folder / ADMIN / "passwords.json", renewed)
    for name in (*DATABASES, OPS):
        mongo_url = (
            f"mongodb://{name}:{passwords['mongo'][name]}@{MONGO}/?replicaSet={REPLICA_SET}"
            f"&authSource={ADMIN if name == OPS else name}"
        )
        _write(folder / name / "callboard_mongo_url", mongo_url)
        if name in passwords["nats"]:
            nats_url = f"nats://{name}:{passwords['nats'][name]}@{NATS}"
            _write(folder / name / "callboard_nats_url", nats_url)
        _write(folder / name / "callboard_internal_token", passwords["other"][_TOKEN])
    _write(folder / "mongo" / "keyfile", passwords["other"]["mongo_keyfile"], _MONGO_ID, is_owner=True)
    _write(folder / "nats" / "nats.conf", _nats_conf(passwords["nats"]), _NATS_ID)
    _write(folder / "grafana" / "password", passwords["other"]["grafana"], 0)


def read_passwords(folder: Path) -> Passwords:
    """What `write_secrets` wrote for the administrator."""
    found: Passwords = json.loads((folder / "passwords.json").read_text("utf-8"))
    return found


def _complete(file: Path, renewed: Collection[str]) -> Passwords:
    known = read_passwords(file.parent) if file.exists() else {}
    # The administrator's is what the others are changed with.
    if unknown := set(renewed) - {*DATABASES, OPS, _TOKEN}:
        raise SystemExit(f"Nothing of this name can be renewed: {', '.join(sorted(unknown))}.")
    wanted = {
        "mongo": (ADMIN, *DATABASES, OPS),
        "nats": nats_users(),
        "other": (_TOKEN, "mongo_keyfile", "grafana"),
    }
    passwords = {
        kind: {
            name: (name not in renewed and known.get(kind, {}).get(name)) or secrets.token_hex(32)
            for name in names
        }
        for kind, names in wanted.items()
    }
    if passwords != known:
        _write(file, json.dumps(passwords))
    return passwords


def _nats_conf(passwords: Mapping[str, str]) -> str:
    users = [
        {
            "user": name,
            "password": password,
            "permissions": {"publish": nats_subjects(name), "subscribe": ["_INBOX.>"]},
        }
        for name, password in passwords.items()
    ]
    return f"""\
port: 4222
http: 127.0.0.1:8222
server_name: callboard
jetstream {{ store_dir: "/data", sync_interval: always }}
authorization {{ users: {json.dumps(users)} }}
"""


def _write(file: Path, text: str, group: int = _CALLBOARD_ID, *, is_owner: bool = False) -> None:
    """Put `text` in place of the file; the group alone can read it, or its user, who then owns it."""
    file.parent.chmod(0o750)
    os.chown(file.parent, 0, group)
    new = file.with_name(f".{file.name}")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
        os.fchmod(opened.fileno(), 0o400 if is_owner else 0o440)
        os.fchown(opened.fileno(), group if is_owner else 0, group)
    new.replace(file)


def give_data(folder: Path) -> None:
    """Let MongoDB and NATS write into the volumes of their data."""
    for name, owner in (("mongo", _MONGO_ID), ("nats", _NATS_ID)):
        os.chown(folder / name, owner, owner)


if __name__ == "__main__":
    write_secrets(Path(sys.argv[1]), sys.argv[3:])
    give_data(Path(sys.argv[2]))
