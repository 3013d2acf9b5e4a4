"""`python -m benchmarks [a b c d e f g | all] [--rounds N] [--quick]`."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks import burst, latency, memory, previews, processes, relay, rest, results
from benchmarks.stage import Stage, stage

_ALL: dict[str, Callable[[Stage, int], Coroutine[Any, Any, str]]] = {
    "a": latency.run,
    "b": burst.run,
    "c": previews.run,
    "d": memory.run,
    "e": rest.run,
    "f": results.run,
    "g": relay.run,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures the bridge beside a direct client and a bare publisher; README.md says what it means.",
    )
    parser.add_argument("which", nargs="*", choices=[*_ALL, "all"], default="all", help="a to g, or all (default)")
    parser.add_argument("--rounds", type=int, help="rounds of each (default: 5, quick: 3)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the jobs and frames: a first impression")
    return parser.parse_args()


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {cores} cores{load}"


def main() -> int:
    """Measure and print. The exit code tells whether it could be measured, not how fast it was."""
    options = _arguments()
    names = list(_ALL) if "all" in options.which else sorted(set(options.which))
    rounds = options.rounds or (3 if options.quick else 5)
    print(f"{_machine()}; medians of {rounds} rounds")
    began = time.monotonic()
    try:
        for name in names:
            with stage(quick=options.quick) as made:
                print(f"\n{asyncio.run(_ALL[name](made, rounds))}", flush=True)
    except processes.Failed as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\n{time.monotonic() - began:.0f} s; {_machine()} now")
    return 0


if __name__ == "__main__":
    sys.exit(main())
