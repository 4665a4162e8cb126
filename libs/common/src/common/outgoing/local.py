"""Services of this process, called without a socket."""

from starlette.types import ASGIApp

Apps = dict[str, ASGIApp]
"""The services of this process by name; empty when each runs in a process of its own."""
