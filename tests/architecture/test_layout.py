"""Every service has the same few files, and imports run one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from callboard.services import declared
from gateway.routes import load_routes
from tests.architecture.repository import ROOT, SERVICES, module, source

ALWAYS = {
    "__init__.py",
    "py.typed",
    "main.py",
    "service.py",
    "repository.py",
    "models.py",
}
WHERE_NEEDED = {
    "errors.py",
    "api.py",
    "settings.py",
    "internal.py",
    "rules.py",
    "people.py",
    "plugins.py",
    "plugins",
    "ranks.py",
    "sync.py",
}


def test_the_import_rules_of_pyproject_hold() -> None:
    """The contracts themselves are in pyproject.toml, under tool.importlinter."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("command", ["people", "status", "sync", "verify"])
def test_a_command_that_asks_only_the_databases_loads_no_server_and_no_client_of_nats(command: str) -> None:
    """They take a second of a slow machine, for which an operator would wait each time."""
    code = f"import sys, callboard.main, callboard.{command}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"fastapi", "uvicorn", "nats"} & set(result.stdout.split())


def test_the_services_are_the_folders_that_these_tests_know() -> None:
    folders = {path.name for path in (ROOT / "services").iterdir() if (path / "pyproject.toml").exists()}
    assert folders == set(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_the_same_few_files_as_the_others(service: str) -> None:
    present = {path.name for path in source(service).iterdir() if path.name != "__pycache__"}
    assert present >= ALWAYS, f"{service} lacks {sorted(ALWAYS - present)}"
    assert present <= ALWAYS | WHERE_NEEDED, (
        f"{service} has {sorted(present - ALWAYS - WHERE_NEEDED)} besides"
    )


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_declares_itself(service: str) -> None:
    found = declared(service)
    assert found.name == service
    assert found.collections
    assert all(event.SUBJECT.split(".")[1] == service for event in found.publishes)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_reaches_no_database_but_the_one_it_is_given(service: str) -> None:
    """The chassis opens the database of the service's own name; every way to another starts with these."""
    ways_out = {"get_database", "get_default_database", "client", "AsyncMongoClient", "MongoClient"}
    for path in source(service).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
            assert name not in ways_out, f"{path}:{getattr(node, 'lineno', 0)}: {name}"


@pytest.mark.parametrize("service", SERVICES)
def test_only_the_repository_of_a_service_calls_mongodb(service: str) -> None:
    plugins = {
        path for path in source(service).rglob("*.py") if "plugins" in path.relative_to(ROOT).as_posix()
    }
    for path in set(source(service).rglob("*.py")) - plugins - {source(service) / "repository.py"}:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                imported = [node.module]
            assert not [name for name in imported if name.split(".")[0] in ("pymongo", "bson")], path


@pytest.mark.parametrize("service", SERVICES)
def test_public_and_internal_routes_do_not_overlap(service: str) -> None:
    if api := module(service, "api"):
        assert not [route.path for route in api.router.routes if route.path.startswith("/internal")]
    if internal := module(service, "internal"):
        assert not [route.path for route in internal.router.routes if not route.path.startswith("/internal/")]


def test_what_is_public_is_exactly_what_the_services_offer() -> None:
    public = {(route.service, route.method, route.path) for route in load_routes().all}
    offered = {
        (service, method, route.path)
        for service in SERVICES
        if (api := module(service, "api"))
        for route in api.router.routes
        for method in route.methods - {"HEAD"}
    }
    assert public == offered
