"""A stand-in ComfyUI as a process of its own: `python -m bridge.testing`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys

from bridge.testing.standin import StandIn


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bridge.testing",
        description="A stand-in ComfyUI: the real protocol, pictures drawn from the prompt, no models, no GPU.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8188, help="port, 0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--step-delay", type=float, default=0.05, help="seconds a sampler step takes (default: %(default)s)"
    )
    parser.add_argument("--preview-size", type=int, default=512, help="edge of the previews (default: %(default)s)")
    parser.add_argument("--preview-bytes", type=int, default=0, help="make each JPEG preview exactly so many bytes")
    parser.add_argument("--no-previews", action="store_true", help="send no previews, as a real server does by default")
    parser.add_argument("--data", help="folder for its files (default: a temporary one, removed at the end)")
    parser.add_argument(
        "--without", metavar="CLASS", action="append", default=[], help="be a server that lacks this node class"
    )
    parser.add_argument("--print-port", action="store_true", help="print only the port instead of the address")
    return parser.parse_args()


def _die() -> None:
    # As after a crash: no goodbye to anybody.
    os._exit(137)


async def _serve(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Windows has no loop handlers; Ctrl-C raises KeyboardInterrupt there.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    standin = StandIn(
        host=options.host,
        port=options.port,
        step_delay=options.step_delay,
        preview_size=options.preview_size,
        preview_bytes=options.preview_bytes,
        previews=not options.no_previews,
        data=options.data,
        without=options.without,
        die=_die,
    )
    async with standin as comfy:
        sys.stdout.write(f"{comfy.port}\n" if options.print_port else f"stand-in ComfyUI listens on {comfy.url}\n")
        sys.stdout.flush()
        stopped = asyncio.create_task(stop.wait())
        # A real ComfyUI ends when its publishing loop does (an unusable client id makes it).
        await asyncio.wait({stopped, comfy.publisher}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        return 0 if stop.is_set() else 1


def main() -> int:
    """Run until SIGINT or SIGTERM; gives the exit code."""
    try:
        return asyncio.run(_serve(_arguments()))
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        sys.stderr.write(f"cannot start: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
