"""A prompt that runs before a backend counts as online, so that its models are loaded when the first job comes."""

from __future__ import annotations

import asyncio
import logging
import uuid

from bridge.comfyui.client import ComfyClient
from bridge.errors import BridgeError
from bridge.workflow.graph import Graph

logger = logging.getLogger(__name__)

_POLL = 0.5


async def warm_up(client: ComfyClient, graph: Graph, *, client_id: str, time_limit: float) -> None:
    """Run a graph and wait for its end. A failure is logged: the backend is used all the same."""
    prompt_id = str(uuid.uuid4())
    try:
        async with asyncio.timeout(time_limit):
            await client.submit(graph, prompt_id=prompt_id, client_id=client_id)
            while True:
                queue = await client.queue()
                if not any(item.prompt_id == prompt_id for item in (*queue.running, *queue.pending)):
                    break
                await asyncio.sleep(_POLL)
        entry = await client.history(prompt_id)
        if entry is None or entry.status_str != "success":
            logger.warning("the warm-up at %s failed; see its log", client.url)
    except TimeoutError:
        logger.warning("the warm-up at %s did not end within %g s", client.url, time_limit)
    except BridgeError as error:
        logger.warning("the warm-up at %s failed: %s", client.url, error.message)
