"""`callboard up`: it serves, starts again what dies, and leaves nothing behind."""

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from callboard.supervisor import Component, Supervisor
from callboard.system import running as process_entry
from tests.cli.machine import CALLBOARD, START_SECONDS, Machine, machine, run
from tests.support import ROOT, wait_until

SERVICES = {"accounts", "certifications", "applications", "shifts", "notifications"}


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Machine]:
    async with machine(tmp_path) as one:
        yield one


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_printed_curl_line_works_as_printed(here: Machine) -> None:
    await here.up()
    (line,) = (line for line in here.output.splitlines() if "| curl" in line)
    answer = await run("sh", "-c", line)
    assert (answer.status, json.loads(answer.out)["username"]) == (0, "Roblox")


async def test_it_keeps_its_secrets_to_itself(here: Machine) -> None:
    await here.up("--processes")
    files = [f"callboard_{name}" for name in ("mongo_url", "nats_url", "internal_token")]
    secrets = [(here.data_dir / "secrets" / name).read_text("utf-8") for name in files]
    secrets += here.keys().values()
    assert len(secrets) == 6
    shown = [here.output]
    for process in psutil.Process(here.listed()["supervisor"]["pid"]).children():
        shown += [*process.cmdline(), *process.environ().values()]
    shown += [path.read_text("utf-8") for path in (here.data_dir / "logs").iterdir()]
    assert not [secret for secret in secrets if any(secret in text for text in shown)]
    assert mode(here.data_dir) == 0o700
    assert {mode(path) for path in here.data_dir.rglob("*") if path.is_file()} <= {0o600, 0o400}


async def test_ctrl_c_stops_all_in_order_and_leaves_no_process_and_no_open_port(here: Machine) -> None:
    await here.up("--processes", "--replicas", "shifts=2")
    listed = here.listed()
    expected = {"supervisor", "mongod", "nats-server", "gateway", "shifts-1", "shifts-2"}
    assert set(listed) == expected | SERVICES - {"shifts"}
    stopping = asyncio.create_task(here.stop(signal.SIGINT))
    gone: list[str] = []
    async with asyncio.timeout(60):
        while len(gone) < len(listed):
            ended = []
            # First who must end last: so none of them is seen to have ended before another that has to.
            for name, entry in listed.items():
                process = here.family.get(entry["pid"])
                if name not in gone and process is not None and process not in here.alive():
                    ended.append(name)
            gone += reversed(ended)
            await asyncio.sleep(0.005)
    assert await stopping == 0
    assert gone[0] == "gateway"
    assert set(gone[-3:-1]) == {"mongod", "nats-server"}
    assert gone[-1] == "supervisor"
    assert not here.alive()
    assert not (here.data_dir / "run.json").exists()
    for entry in listed.values():
        if entry["port"]:
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", entry["port"])) != 0


async def test_told_to_stop_while_it_starts_it_leaves_nothing_running(here: Machine) -> None:
    for _ in range(5):  # on a busy machine, it may be ready before it is told
        await here.begin()
        await wait_until(
            lambda: (here.data_dir / "run.json").exists() and "callboard" in here.listed(), START_SECONDS
        )
        assert await here.stop() == 0
        assert here.family
        assert not here.alive()
        if "is ready: http" not in here.output:
            break
    assert "is ready: http" not in here.output


async def test_told_to_stop_just_when_it_is_ready_it_leaves_nothing_running(here: Machine) -> None:
    await here.begin()
    async with asyncio.timeout(60):
        while "is ready: http" not in here.output:  # noqa: ASYNC110 - a file; `wait_until` is too slow
            await asyncio.sleep(0)
    assert await here.stop() == 0
    assert here.family
    assert not here.alive()
    assert {path.name for path in here.data_dir.glob("*.json")} == set()


async def test_once_all_is_ready_the_supervisor_is_small_and_sleeps(here: Machine) -> None:
    await here.up()
    listed = here.listed()
    supervisor, other = (psutil.Process(listed[name]["pid"]) for name in ("supervisor", "callboard"))
    await wait_until(lambda: "callboard.watch" in supervisor.cmdline())
    await wait_until(lambda: not (here.data_dir / "supervisor.json").exists())  # it knows what there is
    await wait_until(lambda: supervisor.status() == psutil.STATUS_SLEEPING)
    before, enough = (one.num_ctx_switches().voluntary for one in (supervisor, other))
    await wait_until(lambda: other.num_ctx_switches().voluntary > enough + 50)
    assert supervisor.num_ctx_switches().voluntary - before < 10
    assert supervisor.memory_info().rss < 25_000_000


async def test_the_services_of_one_process_share_their_connections_to_mongodb(here: Machine) -> None:
    await here.up()
    listed = here.listed()
    connections = psutil.Process(listed["callboard"]["pid"]).net_connections("tcp")
    to_mongodb = [one for one in connections if one.raddr and one.raddr.port == listed["mongod"]["port"]]
    assert 1 <= len(to_mongodb) <= 12  # a client of its own for each of the six would have four times six


async def test_what_is_killed_is_started_again(here: Machine) -> None:
    await here.up()
    before = here.listed()
    for name in ("callboard", "mongod", "nats-server"):
        os.kill(before[name]["pid"], signal.SIGKILL)

    async def is_back() -> bool:
        after = here.listed()
        is_new = set(after) == set(before) and all(
            after[name]["pid"] != before[name]["pid"] for name in ("callboard", "mongod", "nats-server")
        )
        return is_new and await here.knows(here.keys()["ROBLOX_KEY"])

    await wait_until(is_back, START_SECONDS)
    assert "callboard was ended by signal 9" in here.output
    assert {name: entry["port"] for name, entry in here.listed().items()} == {
        name: entry["port"] for name, entry in before.items()
    }


async def test_after_a_kill_the_next_up_stops_what_was_left_and_keeps_data_and_keys(here: Machine) -> None:
    await here.up()
    keys = here.keys()
    left = [here.family[here.listed()[name]["pid"]] for name in ("mongod", "nats-server", "callboard")]
    assert await here.stop(signal.SIGKILL) == -signal.SIGKILL
    assert set(here.alive()) == set(left)

    await here.up()
    assert not set(here.alive()) & set(left)
    assert here.keys() == keys
    await wait_until(lambda: here.knows(keys["ROBLOX_KEY"]))


def test_a_process_is_known_again_after_the_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = process_entry("me", os.getpid(), None, None, None)
    later = replace(entry, created=entry.created + 100, after_boot=entry.after_boot + 100)
    boot_time = psutil.boot_time()
    # What Linux answers for it when the clock is set, and what the time of a process's start is reckoned from.
    monkeypatch.setattr("psutil._psplatform.boot_time", lambda: boot_time + 3600)
    assert psutil.Process().create_time() > entry.created + 3000
    assert entry.find() == psutil.Process()
    assert later.find() is None


async def test_a_stranger_with_the_process_id_of_something_left_is_not_stopped(here: Machine) -> None:
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        here.data_dir.mkdir()
        entry = {
            "name": "mongod",
            "pid": stranger.pid,
            "port": 1,
            "health_url": None,
            "log": None,
            "created": psutil.Process(stranger.pid).create_time() - 100,
        }
        (here.data_dir / "run.json").write_text(json.dumps([entry]), "utf-8")
        await here.up()
        assert stranger.returncode is None
        assert psutil.Process(stranger.pid).is_running()
    finally:
        stranger.kill()
        await stranger.wait()


async def test_keys_that_a_first_start_did_not_finish_are_made_by_the_next(here: Machine) -> None:
    await here.up()
    old = here.keys()
    await here.stop()
    (here.data_dir / "keys.env").unlink()
    (here.data_dir / "keys.env.unfinished").touch()
    await here.up()
    new = here.keys()
    assert set(new) == {"ROBLOX_KEY", "DISCORD_KEY", "OPERATOR_KEY"}
    assert not set(new.values()) & set(old.values())
    await wait_until(lambda: here.knows(new["ROBLOX_KEY"]))
    assert not await here.knows(old["ROBLOX_KEY"])


async def test_keys_that_were_thrown_away_are_not_made_again(here: Machine) -> None:
    await here.up()
    await here.stop()
    (here.data_dir / "keys.env").unlink()
    await here.up()
    assert not (here.data_dir / "keys.env").exists()
    assert "callboard keys create" in here.output


async def test_a_second_up_in_the_same_folder_is_refused_in_one_sentence(here: Machine) -> None:
    await here.up()
    second = await run(CALLBOARD, "up", "--data-dir", str(here.data_dir))
    assert second.status == 1
    assert second.error == (
        f"Callboard already runs in {here.data_dir}: stop it first, or name another folder with --data-dir.\n"
    )
    assert len(here.alive()) == len(here.listed())


async def test_a_taken_port_is_told_in_one_sentence_before_anything_is_started(here: Machine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", here.port))
        taken.listen()
        await here.begin()
        assert here.process is not None
        assert await here.process.wait() == 1
    assert here.output == (
        f"Cannot listen on port {here.port} of 127.0.0.1: it is taken, or not yours to use; choose another with "
        "--port.\n"
    )
    assert list(here.data_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--trusted-proxy", "here"), "'here' does not appear to be an IPv4 or IPv6 network"),
        (("--trusted-proxy", "10.0.0.1/8"), "10.0.0.1/8 has host bits set"),
        (("--tls-cert", "nothing.pem"), "file 'nothing.pem' does not exist"),
        (("--tls-cert", "README.md"), "--tls-cert and --tls-key need each other."),
        (("--tls-key", "README.md"), "--tls-cert and --tls-key need each other."),
        (("--replicas", "shifts=2"), "--replicas needs --processes"),
        (("--replicas", "gateway=2"), "services: accounts, applications,"),
    ],
)
async def test_a_wrong_option_is_told_before_anything_is_started(
    options: tuple[str, ...], sentence: str, here: Machine
) -> None:
    answer = await run(CALLBOARD, "up", "--data-dir", str(here.data_dir), *options, COLUMNS="200")
    assert (answer.status in (1, 2), sentence in answer.error) == (True, True), answer.error
    assert not here.data_dir.exists()


async def test_a_damaged_list_of_what_runs_is_told_with_what_to_do(here: Machine) -> None:
    here.data_dir.mkdir()
    (here.data_dir / "run.json").write_text('[{"name": "mongod", ', "utf-8")
    answer = await here.callboard("up")
    (here.data_dir / "run.json").unlink()
    assert (answer.status, answer.error.count("\n")) == (1, 1)
    assert answer.error.startswith(f"{here.data_dir / 'run.json'} is damaged (")
    assert "see that no mongod and no nats-server of this folder runs, and remove it." in answer.error


async def test_a_file_that_cannot_be_written_is_told_in_one_sentence(here: Machine) -> None:
    (here.data_dir / "nats" / "nats.conf").mkdir(parents=True)
    answer = await here.callboard("up")
    assert (answer.status, answer.error.count("\n")) == (1, 1)
    assert answer.error.startswith("Operating system error: [Errno 21] Is a directory: ")
    assert not (here.data_dir / "run.json").exists()


async def test_a_password_that_was_removed_is_asked_for_and_works_again(here: Machine) -> None:
    await here.up()
    await here.stop()
    url, copy = here.data_dir / "mongod" / "url", here.data_dir / "secrets" / "callboard_mongo_url"
    url.unlink()
    answer = await here.callboard("up")
    assert (answer.status, answer.error) == (
        1,
        f"{url} is gone, and with it the password of the database: put a copy of {copy} in its place.\n",
    )
    shutil.copy(copy, url)
    await here.up()
    await wait_until(lambda: here.knows(here.keys()["ROBLOX_KEY"]))


@pytest.mark.parametrize("binary", ["mongod", "nats-server"])
async def test_a_missing_binary_is_told_in_one_sentence(binary: str, here: Machine) -> None:
    program = (
        "import importlib.metadata, shutil, callboard.main\n"
        "def none(_): raise importlib.metadata.PackageNotFoundError\n"
        "which = shutil.which\n"
        f"shutil.which = lambda name: None if str(name).endswith({binary!r}) else which(name)\n"
        f"if {binary!r} == 'mongod': importlib.metadata.distribution = none\n"
        "callboard.main.app()\n"
    )
    answer = await run(
        sys.executable, "-c", program, "up", "--data-dir", str(here.data_dir), "--port", str(here.port)
    )
    assert answer.status == 1
    assert answer.error.startswith(f"No {binary} was found: install ")
    assert answer.error.count("\n") == 1
    assert not (here.data_dir / "run.json").exists()


@pytest.mark.parametrize("form", [(), ("--processes",)], ids=["one process", "processes"])
@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (
            'cast = "Cast Member"',
            'cast = "Nobody"',
            'ranks.cast: expected a rank of ranks.ladder, found "Nobody".',
        ),
        (
            'points = "per_minute"',
            'points = "by_luck"',
            'No plugin "by_luck" is installed for callboard.points',
        ),
    ],
    ids=["mistake in the file", "unknown plugin"],
)
async def test_a_broken_configuration_is_told_in_one_sentence(
    form: tuple[str, ...], before: str, after: str, sentence: str, here: Machine
) -> None:
    config = here.data_dir.with_suffix(".toml")
    config.write_text((ROOT / "callboard.toml").read_text("utf-8").replace(before, after), "utf-8")
    answer = await run(
        *(CALLBOARD, "up", "--data-dir", str(here.data_dir), "--port", str(here.port)),
        *("--config", str(config), *form),
    )
    assert answer.status == 1
    assert sentence in answer.error
    assert answer.error.count("\n") == 1
    assert not (here.data_dir / "run.json").exists()
    assert not [
        one for one in psutil.process_iter(["cmdline"]) if str(here.data_dir) in str(one.info["cmdline"])
    ]


async def test_it_serves_https_with_the_given_certificate_and_tells_the_gateway_its_proxies(
    here: Machine,
) -> None:
    cert, key = here.data_dir.with_suffix(".crt"), here.data_dir.with_suffix(".key")
    made = await run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", "/CN=localhost", "-days", "1", "-keyout", str(key), "-out", str(cert)),
    )
    assert made.status == 0, made.error
    await here.up(
        *("--tls-cert", str(cert), "--tls-key", str(key)),
        *("--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "192.0.2.1/32"),
    )
    async with httpx.AsyncClient(verify=False, timeout=30) as client:  # noqa: S501 - it is self-signed
        answer = await client.get(f"https://127.0.0.1:{here.port}/healthz")
    assert answer.status_code == 200
    gateway = psutil.Process(here.listed()["callboard"]["pid"]).environ()
    assert json.loads(gateway["CALLBOARD_TRUSTED_PROXIES"]) == ["10.0.0.0/8", "192.0.2.1/32"]
    assert gateway["CALLBOARD_PUBLIC_URL"] == f"https://127.0.0.1:{here.port}"


async def test_what_keeps_dying_is_started_again_after_pauses_that_grow(tmp_path: Path) -> None:
    told: list[str] = []
    supervisor = Supervisor(tmp_path, told.append)
    supervisor.start(Component("mayfly", ("false",), port=None, rank=0, env={}))

    def has_died_often() -> bool:
        supervisor.look_after()
        return len(told) == 5

    await wait_until(has_died_often)
    supervisor.stop()
    assert told == [
        f"mayfly ended with status 1; it starts again in {pause} s." for pause in (0.1, 0.2, 0.4, 0.8, 1.6)
    ]


async def test_a_log_that_grows_long_is_set_aside_while_its_component_writes(tmp_path: Path) -> None:
    go_on, log = tmp_path / "go on", tmp_path / "logs" / "talker.log"
    os.mkfifo(go_on)
    talk = f"head -c 20000000 /dev/zero; echo before; read _ < '{go_on}'; echo after; sleep 60"
    supervisor = Supervisor(tmp_path, lambda _: None)
    supervisor.start(Component("talker", ("sh", "-c", talk), port=None, rank=0, env=dict(os.environ)))
    try:
        await wait_until(lambda: log.stat().st_size == 20_000_007)
        assert 0 < supervisor.look_after() <= 60
        aside = log.with_suffix(".log.1").read_bytes()
        assert (log.stat().st_size, len(aside), aside[-8:]) == (0, 10_000_000, b"\0before\n")
        go_on.write_text("now\n", "utf-8")
        await wait_until(lambda: log.stat().st_size > 0)
        supervisor.look_after()
        assert log.read_text("utf-8") == "after\n"
    finally:
        supervisor.stop()


async def test_it_goes_on_when_nobody_reads_what_it_says_any_more(here: Machine) -> None:
    reads, writes = os.pipe()
    await here.begin(output=writes)
    os.close(writes)
    with os.fdopen(reads, "rb") as said:
        while b"Ctrl-C stops it." not in await asyncio.to_thread(said.readline):
            assert not here.has_ended
    before = here.listed()["nats-server"]
    os.kill(before["pid"], signal.SIGKILL)
    await wait_until(lambda: here.listed().get("nats-server", before) != before)
    assert not here.has_ended
    assert await here.stop() == 0
    assert not here.alive()


def test_what_it_does_is_told_and_listed_when_the_list_could_not_be_written_at_first(tmp_path: Path) -> None:
    told: list[str] = []
    supervisor = Supervisor(tmp_path, told.append)
    supervisor.start(Component("sleeper", ("sleep", "60"), port=None, rank=0, env=dict(os.environ)))
    supervisor._kept["sleeper"].pause = 5  # so that it is not started again by the next look
    listed = tmp_path / "run.json"
    (first,) = (one["pid"] for one in json.loads(listed.read_text("utf-8")) if one["name"] == "sleeper")
    listed.unlink()
    listed.mkdir()  # nothing can be written there, as on a full disk
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    with pytest.raises(IsADirectoryError):
        supervisor.look_after()
    assert told == ["sleeper was ended by signal 9; it starts again in 5.0 s."]
    listed.rmdir()
    supervisor.look_after()
    assert [one["name"] for one in json.loads(listed.read_text("utf-8"))] == ["supervisor"]
    supervisor.stop()
