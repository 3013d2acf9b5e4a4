"""The long form: `python -m tests.chaos --jobs 1000 --faults 200`. The seed is printed; `--seed` repeats a run."""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.house import Plan, run


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="how many jobs (default: %(default)s)")
    parser.add_argument("--faults", type=int, default=200, help="how many faults (default: %(default)s)")
    parser.add_argument("--servers", type=int, default=2, help="how many stand-ins (default: %(default)s)")
    parser.add_argument("--broker", choices=("nats", "mosquitto"), default="nats")
    parser.add_argument("--pause", type=float, default=1.5, help="seconds between faults (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run (default: a new one)")
    parser.add_argument("--keep", type=Path, default=None, help="folder for logs, store and pictures")
    return parser.parse_args()


def main() -> int:
    """Exit code 0 if all that must be true is true."""
    options = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the processes are ended
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    plan = Plan(
        seed,
        jobs=options.jobs,
        faults=options.faults,
        servers=options.servers,
        broker=options.broker,
        mean_pause=options.pause,
        patience=300.0,
    )
    folder = options.keep or Path(tempfile.mkdtemp(prefix="comfy-bridge-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{plan}\nlogs: {folder}\n")
    sys.stdout.flush()
    began = time.monotonic()
    report = asyncio.run(run(plan, folder))
    sys.stdout.write(f"{time.monotonic() - began:.0f} s, seed {seed}: {report}\n")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
