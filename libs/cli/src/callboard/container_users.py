"""A new mongod in a container becomes a primary with one user per service.

`python -m callboard.container_users DIR` runs in the network of mongod's container: the first user of all can only
be made from the same host. DIR is what `container_secrets` wrote for the administrator. Safe to repeat.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from pymongo import AsyncMongoClient

from callboard.container_secrets import ADMIN, MONGO, read_passwords
from callboard.replica_set import prepare_mongod
from callboard.rights import OPS, mongodb_ops_roles, mongodb_privileges
from callboard.services import DATABASES
from callboard.stopping import end_when_told, run
from common.logs import configure_logging
from common.mongo import Document

_ROLE = "service"


async def prepare(passwords: Mapping[str, str]) -> None:
    """Make the replica set and its users, and bring their roles and passwords up to date. Raises CommandError."""
    url = f"mongodb://{ADMIN}:{passwords[ADMIN]}@127.0.0.1:27017"
    await prepare_mongod(url, member=MONGO)
    async with AsyncMongoClient[Document](url, directConnection=True) as client:
        await make_users(client, passwords)


async def make_users(client: AsyncMongoClient[Document], passwords: Mapping[str, str]) -> None:
    """Make what is missing of the roles and users, and bring the others up to date."""
    for name in DATABASES:
        database = client[name]
        found = await database.command("rolesInfo", _ROLE)
        await database.command(
            "updateRole" if found["roles"] else "createRole",
            _ROLE,
            privileges=mongodb_privileges(name),
            roles=[],
        )
        await _make_user(client, name, name, passwords[name], [{"db": name, "role": _ROLE}])
    await _make_user(client, "admin", OPS, passwords[OPS], mongodb_ops_roles())


async def _make_user(
    client: AsyncMongoClient[Document], database: str, name: str, password: str, roles: list[dict[str, str]]
) -> None:
    found = await client[database].command("usersInfo", name)
    command = "updateUser" if found["users"] else "createUser"
    await client[database].command(command, name, pwd=password, roles=roles)


if __name__ == "__main__":
    end_when_told()
    configure_logging("container_users", "INFO")
    run(prepare(read_passwords(Path(sys.argv[1]))["mongo"]))
