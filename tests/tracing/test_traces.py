"""What a request caused is one trace, wherever it was done."""

import asyncio

import httpx

from common.events import CertificationGranted, ShiftLogged
from tests.support import unique_id, wait_until
from tests.support.visitors import Visitors, visitors
from tests.tracing.collector import Traced

OK = {"http.request.method": "POST", "http.response.status_code": 200}


async def test_a_shift_is_one_trace_from_the_gateway_to_its_ledger_entry(park: Traced) -> None:
    worker = await park.machine.person()
    async with visitors(park.machine) as guest:
        park.collector.spans.clear()
        answer = await guest.log(worker.id)
        gateway, shifts, accounts = await park.spans(answer, 3)
    assert (gateway.service, gateway.name, gateway.kind, gateway.parent) == (
        "gateway",
        "POST /log",
        "SERVER",
        "",
    )
    assert (shifts.service, shifts.name, shifts.kind, shifts.parent) == (
        "shifts",
        "POST /log",
        "SERVER",
        gateway.id,
    )
    assert gateway.attributes == shifts.attributes == OK | {"http.route": "/log"}
    assert (accounts.service, accounts.name, accounts.kind, accounts.parent) == (
        "accounts",
        f"process {ShiftLogged.SUBJECT}",
        "CONSUMER",
        shifts.id,
    )
    shift = accounts.attributes.pop("messaging.message.id")
    async with park.machine.mongodb() as mongodb:
        assert await mongodb["shifts"]["shifts"].find_one({"_id": shift, "user": worker.id})
    assert accounts.attributes == {
        "messaging.system": "nats",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": ShiftLogged.SUBJECT,
        "messaging.consumer.group.name": "accounts",
        "messaging.batch.message_count": 1,
    }
    assert not any(span.is_error for span in (gateway, shifts, accounts))
    assert {span.trace for span in park.collector.spans} == {gateway.trace}


async def test_shifts_that_share_a_transaction_and_a_batch_keep_their_own_traces(park: Traced) -> None:
    workers = await park.machine.people(40, "Cast Member")
    async with visitors(park.machine) as guest:
        answers = await asyncio.gather(*(guest.log(worker.id) for worker in workers))
        traces = [await park.spans(answer, 3) for answer in answers]
    assert len({trace[0].trace for trace in traces}) == len(workers)
    for gateway, shifts, accounts in traces:
        assert (gateway.parent, shifts.parent, accounts.parent) == ("", gateway.id, shifts.id)
    assert max(int(trace[2].attributes["messaging.batch.message_count"]) for trace in traces) > 1


async def test_what_a_service_asks_of_another_is_in_the_trace(park: Traced) -> None:
    person = await park.machine.person()
    async with visitors(park.machine) as guest:
        found = await park.spans(await guest.change("grant", person.username), 5)
    gateway, certifications, *rest = found
    assert (gateway.name, certifications.service) == ("POST /certification/grant", "certifications")
    assert {(span.service, span.name, span.parent) for span in rest} == {
        ("accounts", "GET /internal/member", certifications.id),
        ("accounts", f"process {CertificationGranted.SUBJECT}", certifications.id),
        ("shifts", f"process {CertificationGranted.SUBJECT}", certifications.id),
    }


async def test_a_caller_decides_nothing_about_traces(park: Traced) -> None:
    theirs = "0af7651916cd43dd8448eb211c80319c"
    async with visitors(park.machine) as guest:
        for flags in ("00", "01"):
            headers = {"traceparent": f"00-{theirs}-b7ad6b7169203331-{flags}", "tracestate": "theirs=1"}
            params = {"id": "1", "place": "1001", "training": "false"}
            answer = await guest.game.get("/connect", params=params, headers=headers)
            gateway, accounts = await park.spans(answer, 2)
            assert (gateway.parent, accounts.parent) == ("", gateway.id)
    assert theirs not in park.collector.text
    assert "theirs" not in park.collector.text


async def test_a_request_for_nothing_that_there_is_tells_nothing_of_it(park: Traced) -> None:
    async with park.machine.client("operator") as client:
        (nowhere,) = await park.spans(await client.get("/SecretPath"), 1)
        (wrong_method,) = await park.spans(await client.delete("/log"), 1)
    assert (nowhere.name, nowhere.is_error) == ("HTTP", False)
    assert nowhere.attributes == {"http.request.method": "_OTHER", "http.response.status_code": 404}
    assert (wrong_method.name, wrong_method.is_error) == ("HTTP /log", False)


async def test_an_error_marks_its_spans_and_its_log_line_names_the_trace(park: Traced) -> None:
    worker = await park.machine.person()
    shifts, accounts = ("callboard", "callboard") if park.gateway == "callboard" else ("shifts", "accounts")
    async with visitors(park.machine) as guest:
        park.machine.arm(shifts, "log")
        answer = await guest.log(worker.id)
        park.machine.disarm(shifts, "log")
        assert answer.status_code == 500
        for span in await park.spans(answer, 2):
            assert (span.is_error, span.attributes["error.type"]) == (True, "500")
        await wait_until(lambda: any(park.lines(shifts, message="unexpected error", trace_id=span.trace)))
        (line,) = park.lines(shifts, message="unexpected error", trace_id=span.trace)
        assert line["request_id"] == answer.headers["x-request-id"]

        park.machine.arm(accounts, "record")
        answer = await guest.log(worker.id)
        *_, failed = await park.spans(answer, 3)
        park.machine.disarm(accounts, "record")
        assert (failed.is_error, failed.attributes["error.type"]) == (True, "ValueError")
        wanted = {"logger": "common.consumer", "level": "ERROR", "trace_id": failed.trace}
        await wait_until(lambda: any(park.lines(accounts, **wanted)))
        await wait_until(lambda: not park.collector.of(failed.trace)[-1].is_error)  # it comes again


async def test_no_span_tells_a_key_a_query_a_token_or_a_person(park: Traced) -> None:
    person = await park.machine.person("Guest")
    secrets = {
        *park.machine.keys.values(),
        park.machine.servers.internal_token,
        str(person.id),
        person.username,
        "SecretValue",
    }
    async with visitors(park.machine) as guest, park.machine.client("operator") as operator:
        uploaded = await guest.upload(person.id)
        token = uploaded.json()["url"].rpartition("/")[2]
        answers = [uploaded, *(await everything(guest, operator, person.id, person.username, token))]
        for answer in answers:
            await park.spans(answer, 1 if answer.status_code in (401, 403, 404, 405) else 2)
    assert {200, 400, 401, 403, 404} <= {answer.status_code for answer in answers}
    assert not [secret for secret in {*secrets, token} if secret in park.collector.text]


async def everything(
    guest: Visitors, operator: httpx.AsyncClient, user: int, username: str, token: str
) -> list[httpx.Response]:
    """Answers to requests of all routes, good and bad, with things in them that no span may tell."""
    wrong = {"x-api-key": f"cb_operator_{unique_id():043d}", "Roblox-Id": "SecretValue"}
    return [
        await guest.log(user),
        await guest.log(user, server="SecretValue", key="SecretValue"),
        await guest.log(user, duration="SecretValue"),
        await guest.join(user),
        await guest.profile(user),
        await operator.get("/profile", params={"username": username}),
        await guest.change("grant", username, "SecretValue"),
        await guest.change("grant", username),
        await guest.approve(user),
        await guest.change("grant", username),
        await guest.read(token),
        await guest.read("SecretValue"),
        await operator.get(f"/profile?key={operator.headers['x-api-key']}&id={user}"),
        await operator.get(f"/profile?id={user}&secret=SecretValue", headers=wrong),
        await operator.post("/log", params={"id": user, "server": "SecretValue"}, headers=wrong),
        await guest.bot.post("/log", params={"id": user, "server": "SecretValue"}),
    ]
