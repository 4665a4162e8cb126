"""The lines of the table, and what is asked of each."""

from bench.measures import Line, Value

ONE, HTTP = "one process", "processes"
NGINX, SERVICES = "nginx", "services"
PLAIN, PLAIN_HTTPX = "plain, aiohttp", "plain, httpx"
GROWTH_MB, GROWTH_RATIO = 10, 1.5


def _against_plain(route: str, connections: int, candidate: str, goal: float | None) -> Line:
    measure = f"{route}, {connections} connections"
    return Line(
        f"{measure}: {candidate} / {PLAIN}",
        Value(measure, candidate, "rate"),
        Value(measure, PLAIN, "rate"),
        ">=",
        goal,
    )


def _tail_against_plain(route: str, connections: int, candidate: str, goal: float | None) -> Line:
    measure = f"{route}, {connections} connections"
    return Line(
        f"{measure}, p99: {candidate} / {PLAIN}",
        Value(measure, candidate, "p99"),
        Value(measure, PLAIN, "p99"),
        "<=",
        goal,
    )


def _tail(measure: str, candidate: str, goal: float) -> Line:
    return Line(
        f"{measure}, {candidate}: p99 / p50",
        Value(measure, candidate, "p99"),
        Value(measure, candidate, "p50"),
        "<=",
        goal,
    )


def _visible(rate: int, candidate: str) -> list[Line]:
    measure = f"points visible, {rate}/s"
    p50, p99, answered = (Value(measure, candidate, name) for name in ("p50", "p99", "answered_p50"))
    return [
        Line(f"{measure}, {candidate}: p50 / p50 of the POST", p50, answered, "<=", 3),
        Line(f"{measure}, {candidate}: p99", p99, None, "<=", 100, "ms"),
    ]


def _does_not_grow(rate: int, candidate: str) -> Line:
    growth = Value(f"points visible, {rate}/s", candidate, "growth")
    return Line(
        f"points visible, {rate}/s, {candidate}: delay, last third / first third",
        growth,
        None,
        "<=",
        GROWTH_RATIO,
    )


STATIC, CONNECT, ONE_CONNECTION = "static upstream", "/connect, 32 connections", "/connect, 1 connection"
HALF, HALF_MIXED = "half the peak, /connect", "half the peak, 20 % /log"
CONSUMER, START = "consumer of shift_logged", "start"

LINES = [
    Line(
        f"{STATIC}: gateway / nginx",
        Value(STATIC, "gateway", "rate"),
        Value(STATIC, NGINX, "rate"),
        ">=",
        0.12,
    ),
    Line(
        f"{STATIC}: CPU of the gateway per request", Value(STATIC, "gateway", "cpu_ms"), None, "<=", 0.2, "ms"
    ),
    Line(
        f"{CONNECT}: {ONE} / {NGINX}", Value(CONNECT, ONE, "rate"), Value(CONNECT, NGINX, "rate"), ">=", 0.9
    ),
    Line(f"{CONNECT}: {HTTP} / {NGINX}", Value(CONNECT, HTTP, "rate"), Value(CONNECT, NGINX, "rate")),
    Line(f"{CONNECT}: {NGINX} / {SERVICES}", Value(CONNECT, NGINX, "rate"), Value(CONNECT, SERVICES, "rate")),
    _against_plain("/connect", 32, HTTP, 3),
    _against_plain("/connect", 32, ONE, 5),
    _against_plain("/connect", 32, PLAIN_HTTPX, None),
    _tail_against_plain("/connect", 32, HTTP, None),
    _tail_against_plain("/connect", 32, ONE, None),
    _against_plain("/connect", 128, HTTP, None),
    _against_plain("/connect", 128, ONE, None),
    _tail_against_plain("/connect", 128, HTTP, None),
    _tail_against_plain("/connect", 128, ONE, None),
    _against_plain("/log", 32, HTTP, 3),
    _against_plain("/log", 32, ONE, 3),
    _against_plain("/log", 32, PLAIN_HTTPX, None),
    _tail_against_plain("/log", 32, HTTP, None),
    _tail_against_plain("/log", 32, ONE, None),
    _against_plain("/log", 128, HTTP, 6),
    _against_plain("/log", 128, ONE, 6),
    _tail_against_plain("/log", 128, HTTP, 0.25),
    _tail_against_plain("/log", 128, ONE, 0.25),
    _tail(HALF, HTTP, 3),
    _tail(HALF, ONE, 3),
    _tail(HALF_MIXED, HTTP, 5),
    _tail(HALF_MIXED, ONE, 5),
    *(
        Line(
            f"{ONE_CONNECTION}: p50, {candidate} / {NGINX}",
            Value(ONE_CONNECTION, candidate, "p50"),
            Value(ONE_CONNECTION, NGINX, "p50"),
            "<=",
            1.4,
        )
        for candidate in (HTTP, ONE)
    ),
    Line(
        f"{CONSUMER}: ledger and totals / no database",
        Value(CONSUMER, "accounts", "rate"),
        Value(CONSUMER, "nothing", "rate"),
        ">=",
        0.35,
    ),
    Line(
        f"{CONSUMER}: growth of memory over the last 80 %",
        Value(CONSUMER, "accounts", "growth_mb"),
        None,
        "<=",
        GROWTH_MB,
        "MB",
    ),
    *_visible(50, HTTP),
    *_visible(50, ONE),
    _does_not_grow(1000, HTTP),
    _does_not_grow(1000, ONE),
    Line(f"{START}: `callboard up` is ready", Value(START, ONE, "ready_s"), None, "<=", 3, "s"),
    Line(
        f"{START}: memory, Python (supervisor and {ONE})",
        Value(START, ONE, "python_mb"),
        None,
        "<=",
        110,
        "MB",
    ),
    Line(f"{START}: memory, {ONE} alone", Value(START, ONE, "process_mb"), unit="MB"),
    Line(f"{START}: idle CPU, Python", Value(START, ONE, "idle_percent"), None, "<=", 1, "%"),
    Line(f"{START}: idle CPU, with mongod and nats-server", Value(START, ONE, "idle_all_percent"), unit="%"),
    Line(f"{START}: memory after the load, {ONE}", Value("memory", ONE, "python_mb"), unit="MB"),
]
