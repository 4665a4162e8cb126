"""The pages that the gateway answers itself."""

import pytest

from gateway.proxy import OWN_PAGES
from tests.gateway.raw import Gate, statuses


@pytest.mark.parametrize("page", sorted(page.decode() for page in OWN_PAGES))
async def test_head_tells_what_get_would_answer_and_sends_none_of_it(gate: Gate, page: str) -> None:
    (got,) = await gate.ask(gate.request(page, "Connection: close"))
    (told,) = await gate.ask(gate.request(page, "Connection: close", method="HEAD"))
    assert (told.status, told.body) == (200, b"")
    for name in ("content-type", "content-length"):
        assert told.headers[name] == got.headers[name]
    assert got.headers["content-length"] == str(len(got.body))


@pytest.mark.parametrize("page", sorted(page.decode() for page in OWN_PAGES))
async def test_nothing_but_reading_is_allowed(gate: Gate, page: str) -> None:
    methods = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
    answers = [await gate.ask(gate.request(page, "Connection: close", method=method)) for method in methods]
    assert [statuses(answer) for answer in answers] == [[405]] * len(methods)
    assert {frozenset(answer.headers["allow"].split(", ")) for (answer,) in answers} == {
        frozenset(("get", "head"))
    }


async def test_what_is_true_for_a_moment_is_not_stored_and_the_description_may_be(gate: Gate) -> None:
    stored = set()
    for page in sorted(page.decode() for page in OWN_PAGES):
        (answer,) = await gate.ask(gate.request(page, "Connection: close"))
        if answer.headers.get("cache-control") != "no-store":
            stored.add(page)
    assert stored == {"/docs", "/openapi.json"}
