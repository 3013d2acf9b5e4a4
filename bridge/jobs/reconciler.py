"""The truth over the socket: asks a backend's queue and history whenever its websocket cannot be trusted.

Rules (measured on ComfyUI 0.3.64): a prompt is in the queue, or in the history, or lost; it goes from the one to the
other under one lock, so asking the queue first and the history second never misses it. A deleted prompt leaves no
trace but a `status` with a smaller number. A socket may stay open and be silent for ever; loading a model is silent
too, so a silent socket is renewed with growing patience. A worker thread that died leaves its prompt running for
ever, without events, while HTTP answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from bridge.comfyui.shapes import QueueState
from bridge.errors import BackendOffline, BridgeError, TimedOut
from bridge.jobs.backend import Active, Backend, Verdict

logger = logging.getLogger(__name__)

_TICK = 0.25
_POLL = 1.0
_REGULAR = 15.0
_END_GRACE = 1.0
"""Seconds between the frame that tells the end and the one that closes the prompt, before the history is asked."""
_SILENCE = 5.0
_LONGEST_SILENCE = 60.0
_LIVE = 3
"""Frames of a connection from which on it is alive: the first ones come by themselves."""
_GONE_AFTER = 10.0
"""Seconds without a backend after which its jobs are given to others."""
_MISSING = 2


class Reconciler:
    """Watches one backend. `run` never ends by itself."""

    def __init__(self, backend: Backend, *, stall_timeout: float) -> None:
        self._backend = backend
        self._stall_timeout = stall_timeout
        self._asked = 0.0
        self._patience = _SILENCE
        self._complained = False
        self._running: set[str] = set()
        self._running_since = 0.0
        """Since when the queue shows just these prompts as running (loop time)."""

    async def run(self, others_online: Callable[[Backend], bool]) -> None:
        """Ask when there is doubt; `others_online` tells whether another backend could take the jobs."""
        backend = self._backend
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await backend.suspicious.wait()
            now = asyncio.get_running_loop().time()
            if backend.live_frames > _LIVE:
                # A machine that is slow from step to step is not silent.
                self._patience = min(max(_SILENCE, 2 * backend.longest_gap), _LONGEST_SILENCE)
            actives = self._actives()
            if not actives and not backend.leftovers and not backend.stuck:
                backend.suspicious.clear()
                self._asked = now
                self._complained = False
                continue
            waited = now - self._asked
            sure = not backend.suspicious.is_set() and not backend.leftovers and not backend.stuck
            if sure and waited < _REGULAR and not any(self._doubtful(active, now) for active in actives):
                continue
            if waited < _POLL:
                await asyncio.sleep(_POLL - waited if not backend.suspicious.is_set() else _TICK)
            backend.suspicious.clear()
            self._asked = asyncio.get_running_loop().time()
            try:
                await self._ask(others_online)
            except (BackendOffline, TimedOut) as error:
                logger.debug("%s does not tell its queue: %s", backend.name, error.message)
                self._away(others_online)
            except BridgeError as error:
                logger.warning("%s: %s", backend.name, error.message)

    def _actives(self) -> list[Active]:
        return [one for one in self._backend.active.values() if one.submitted and not one.done.is_set()]

    def _doubtful(self, active: Active, now: float) -> bool:
        backend = self._backend
        return (
            active.ambiguous
            or active.missing > 0
            or not backend.socket.connected
            or active.epoch != backend.epoch
            or active.job.client_id != backend.socket.client_id
            or (active.life.end is not None and now - active.last_sign > _END_GRACE)
            or now - backend.socket.last_frame > self._patience
        )

    async def _ask(self, others_online: Callable[[Backend], bool]) -> None:
        backend = self._backend
        queue = await backend.client.queue()
        running = {item.prompt_id for item in queue.running}
        pending = {item.prompt_id for item in queue.pending}
        await self._clear_leftovers(running, pending)
        now = asyncio.get_running_loop().time()
        for active in self._actives():
            job_id = active.job.id
            if job_id in running | pending and backend.socket.connected and active.epoch != backend.epoch:
                # The new connection hears of it again; what was said in between is in the history alone.
                active.epoch, active.missed = backend.epoch, True
            if job_id in pending:
                active.missing, active.ambiguous, active.last_sign = 0, False, now
            elif job_id in running:
                active.missing, active.ambiguous = 0, False
                backend.mark_started(active)
                self._check_silence(now)
            else:
                await self._ask_history(active)
        await self._check_stall(queue, others_online)

    async def _ask_history(self, active: Active) -> None:
        backend = self._backend
        entry = await backend.client.history(active.job.id)
        if active.done.is_set():
            return
        if entry is not None:
            backend.learn(active, entry)
            return
        active.missing += 1
        if active.life.end is not None and (active.missing >= _MISSING or not active.life.over):
            active.decide(Verdict.OVER)
        elif active.job.interrupting:
            active.decide(Verdict.DELETED)
        elif active.missing >= _MISSING:
            untouched = active.epoch == backend.epoch and not active.life.started and not active.ambiguous
            active.decide(Verdict.DELETED if untouched else Verdict.LOST)

    def _check_silence(self, now: float) -> None:
        socket = self._backend.socket
        if socket.connected and now - socket.last_frame > self._patience:
            logger.info(
                "%s runs a prompt of ours and its websocket is silent for %.0f s: connecting anew",
                self._backend.name,
                now - socket.last_frame,
            )
            self._patience = min(2 * self._patience, _LONGEST_SILENCE)
            self._backend.renew()

    async def _check_stall(self, queue: QueueState, others_online: Callable[[Backend], bool]) -> None:
        backend = self._backend
        now = asyncio.get_running_loop().time()
        running = {item.prompt_id for item in queue.running}
        if running != self._running:
            self._running, self._running_since = running, now
        actives = self._actives()
        ours = [one for one in actives if one.job.id in running]
        stalled = [one for one in ours if now - one.last_sign > (one.payload.stall_timeout or self._stall_timeout)]
        # What runs for somebody else sends us no events: it may be long, or the worker thread may have died on it.
        held_up = bool(actives and running) and not ours and now - self._running_since > self._stall_timeout
        if not stalled and not held_up:
            if backend.stuck and not running & backend.stuck_on:
                logger.warning("%s works again", backend.name)
                backend.stuck = False
            return
        self._complain(stalled, now)
        restart = backend.restart if stalled else None
        if restart is None and not others_online(backend):
            return  # the jobs stay: nobody else could run them, and a person may restart it
        backend.stuck, backend.stuck_on = True, running
        await backend.client.delete_pending(*(one.job.id for one in actives))
        for active in actives:
            if active.job.id in running:
                await backend.client.interrupt(active.job.id)
                backend.leftovers.add(active.job.id)
            active.decide(Verdict.STUCK)
        if restart is not None and await restart():
            backend.stuck = False

    def _complain(self, stalled: list[Active], now: float) -> None:
        if self._complained:
            return
        self._complained = True
        if stalled:
            logger.error(
                "%s has shown no sign of life for %.0f s while it runs %s: only a restart of ComfyUI helps",
                self._backend.name,
                now - stalled[0].last_sign,
                stalled[0].job.id,
            )
        else:
            logger.warning(
                "%s has been running a prompt of somebody else for %.0f s, and prompts of ours wait behind it",
                self._backend.name,
                now - self._running_since,
            )

    def _away(self, others_online: Callable[[Backend], bool]) -> None:
        """Give the jobs of a backend that is gone to the others."""
        backend = self._backend
        now = asyncio.get_running_loop().time()
        if backend.offline_since is None or now - backend.offline_since < _GONE_AFTER or not others_online(backend):
            return
        for active in self._actives():
            backend.leftovers.add(active.job.id)
            active.decide(Verdict.LOST)

    async def _clear_leftovers(self, running: set[str], pending: set[str]) -> None:
        """End prompts that were given up while the backend was away."""
        backend = self._backend
        if not backend.leftovers:
            return
        await backend.client.delete_pending(*(backend.leftovers & pending))
        for job_id in backend.leftovers & running:
            await backend.client.interrupt(job_id)
        backend.leftovers &= running | pending

    @staticmethod
    async def stop(backend: Backend, active: Active) -> None:
        """End a prompt in ComfyUI: deleted if it waits, interrupted if it runs, and looked for until it is over."""
        pause = _TICK
        job_id = active.job.id
        while not active.done.is_set():
            if active.submitted:
                try:
                    await backend.client.delete_pending(job_id)
                    queue = await backend.client.queue()
                    if any(item.prompt_id == job_id for item in queue.running):
                        await backend.client.interrupt(job_id)
                    elif not any(item.prompt_id == job_id for item in queue.pending):
                        backend.suspicious.set()
                except (BackendOffline, TimedOut):
                    now = asyncio.get_running_loop().time()
                    if backend.offline_since is not None and now - backend.offline_since > _GONE_AFTER:
                        backend.leftovers.add(job_id)
                        active.decide(Verdict.DELETED)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await active.done.wait()
            pause = min(2 * pause, 5.0)
