"""The fault run: `python -m tests.faults --seeds 10`."""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from tests.faults.report import show
from tests.faults.run import PROVES_NOTHING, Result, run
from tests.faults.scenarios import RUNS, scenario_of


async def _run_all(name: str | None, first: int, seeds: int) -> list[Result]:
    results = []
    for seed in range(first, first + seeds):
        results.append(await run(RUNS[name] if name else scenario_of(seed), seed))
        show(results[-1:])
    return results


def main() -> int:
    """Run, show the tables, and answer 1 when a run found something, PROVES_NOTHING when one proves nothing."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many runs")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--run", choices=RUNS, help="the same run for every seed, not each in turn")
    parser.add_argument(
        "--findings", type=Path, metavar="FILE", help="where to write what was found, as JSON"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it stops what it started
    results = asyncio.run(_run_all(options.run, options.first, options.seeds))
    if len(results) > 1:
        show(results)
    if options.findings:
        found = [finding for result in results for finding in result.findings]
        options.findings.write_text(json.dumps([(one.kind, one.text) for one in found]), "utf-8")
    if any(result.findings for result in results):
        return 1
    return PROVES_NOTHING if any(result.problems for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
