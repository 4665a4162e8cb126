"""Where things are in this repository, for the tests that look at it from outside."""

import importlib
from pathlib import Path
from types import ModuleType

from callboard.services import SERVICES

__all__ = ["ROOT", "SERVICES", "module", "source"]

ROOT = Path(__file__).parents[2]


def source(service: str) -> Path:
    """The package folder of a service."""
    return ROOT / "services" / service / "src" / service


def module(service: str, name: str) -> ModuleType | None:
    """A module of a service, or None where the service has no such file."""
    if not (source(service) / f"{name}.py").exists():
        return None
    return importlib.import_module(f"{service}.{name}")
