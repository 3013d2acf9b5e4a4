"""`comfy-bridge run`: the daemon."""

from __future__ import annotations

import logging

from bridge import __version__, daemon
from bridge.cli import process
from bridge.cli.arguments import Options
from bridge.core import Core
from bridge.settings import Settings

logger = logging.getLogger(__name__)


def main(options: Options) -> int:
    """Run the bridge until a signal ends it."""
    settings = process.settings_of(options)
    process.set_up_log(settings.log)
    return process.run(_run(settings), is_daemon=True)


async def _run(settings: Settings) -> int:
    logger.info("comfy-bridge %s starts", __version__)
    await daemon.run(settings, on_ready=_tell)
    return 0


async def _tell(core: Core) -> None:
    names = core.workflow_names()
    backends = core.info()["backends"].values()
    logger.info("%d workflows (%s); ComfyUI at %s", len(names), ", ".join(names[:10]), ", ".join(backends))
