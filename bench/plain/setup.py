"""What the parts of the plain stack share: settings, MongoDB, NATS, and how they are served."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import nats
import uvicorn
from fastapi import FastAPI, Header, HTTPException
from nats.js import JetStreamContext
from pymongo import AsyncMongoClient

TOKEN = os.environ.get("PLAIN_TOKEN", "")
SHIFT_LOGGED = "plain.shifts.shift_logged"
STREAM = "PLAIN"
CONSUMER = "accounts"

Client = AsyncMongoClient[dict[str, Any]]


def mongo_client() -> Client:
    """A client whose writes are as durable as Callboard's."""
    return AsyncMongoClient(os.environ["PLAIN_MONGO_URL"], w="majority", journal=True, tz_aware=True)


@asynccontextmanager
async def jetstream() -> AsyncIterator[JetStreamContext]:
    """The stream of the plain stack, created if need be."""
    connection = await nats.connect(os.environ["PLAIN_NATS_URL"])
    stream = connection.jetstream()
    await stream.add_stream(name=STREAM, subjects=["plain.>"])
    yield stream
    await connection.close()


async def check_token(x_plain_token: Annotated[str, Header()] = "") -> None:
    """Only the gateway may call."""
    if x_plain_token != TOKEN:
        raise HTTPException(401, "invalid token")


def serve(app: FastAPI, port: int) -> None:
    """With the options that Callboard uses."""
    uvicorn.run(
        app,
        port=port,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
