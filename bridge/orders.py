"""Makes jobs of what is asked for: the values settled, the seeds drawn, the graph taken as it is now."""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from bridge import errors, requests
from bridge.batches import Batches
from bridge.chain_library import ChainWorkflow
from bridge.chains import Chains
from bridge.jobs.lookup import Lookup
from bridge.jobs.model import ImageValue, Job, Output, Payload, iso
from bridge.jobs.runner import Runner
from bridge.transactions import accepted
from bridge.values import CurrentValues, State, Values
from bridge.workflow.graph import Target, read_graph
from bridge.workflow.kinds import RANDOM
from bridge.workflow.parameters import Parameter
from bridge.workflow.values import is_seed
from bridge.workflow.workflow import Workflow

# Every program can write numbers up to this one exactly; half of them lose digits above 2^53.
_SEEDS = 2**50

Transaction = tuple[str, str]


class Orders:
    """Makes jobs and hands them to the runner; also what a chain needs to run its parts (`bridge.chains.Parts`)."""

    def __init__(
        self,
        runner: Runner,
        values: CurrentValues,
        batches: Batches,
        lookup: Lookup,
        get: Callable[[str], Workflow],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._runner = runner
        self._values = values
        self._batches = batches
        self._lookup = lookup
        self._get = get
        self._clock = clock
        self.chains: Chains | None = None
        """Who drives chains; set once, since a chain in turn orders its parts here."""

    async def queue(
        self,
        found: Workflow,
        request: requests.Queue,
        assigned: list[tuple[Values, dict[Target, Any]]],
        state: State,
        runs: int,
        transaction: Transaction | None,
        *,
        alias: str | None = None,
        owed: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Accept the runs of one request; `state` is a snapshot of what the workflow is set to.

        alias, owed: a name for the job, where it is one, and what is owed at its end.
        """
        now = self._clock()
        several = runs > 1
        batch_id = str(uuid.uuid4()) if several else None
        each: list[tuple[Values, set[Target]]] = []
        for plain, sources in assigned:
            images = await self._values.resolve(found, sources, state)
            values = self._values.fitting(found, {**await state.settled(), **plain, **images})
            each.append((values, set(plain)))
        jobs = []
        for number in range(runs):
            counted = len(each) == 1  # `count` counts seeds up; a list and a grid say what they want
            values, given = each[0] if counted else each[number]
            drawn = self._drawn(found, values, step=number if counted else 0, given=given)
            job = Job(
                id=str(uuid.uuid4()),
                workflow=found.name or None,
                values=found.shown(drawn),
                created_at=now,
                priority=request.priority,
                expires_at=request.expires_at,
                batch_id=batch_id,
                transaction=transaction,
                alias=None if several else alias,
                owed=None if several else owed,
            )
            jobs.append((job, drawn))
        if batch_id is not None:
            self._batches.add([job for job, _ in jobs])
        try:
            if isinstance(found, ChainWorkflow):
                await self._start_chains(found, jobs)
            else:
                await self._runner.accept([(job, await found.instantiate(drawn)) for job, drawn in jobs])
        except BaseException:
            self._batches.drop(batch_id)
            raise
        self._name(jobs[0][0])
        return accepted([job for job, _ in jobs])

    def _name(self, job: Job) -> None:
        if job.alias is not None:
            self._lookup.name(job.alias, job.id)

    async def _start_chains(self, found: ChainWorkflow, jobs: list[tuple[Job, Values]]) -> None:
        if self.chains is None:
            raise errors.Internal("chains are not driven")
        # The first step of each waits like any other job; later ones were let in with it.
        self._runner.check_room(len(jobs) + self.chains.between_steps)
        await self.chains.start(found.chain, jobs)

    async def run_graph(
        self,
        request: requests.RunGraph,
        *,
        files: Mapping[Target, ImageValue] | None = None,
        transaction: tuple[str, str] | None = None,
        owed: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run a whole graph, of no workflow, as it is; the answer names the job. `transaction`, `owed` as for `queue`.

        files: uploaded before it runs, and named in the inputs that they are for.
        """
        if request.deliver is not None:
            raise errors.Unsupported("deliver is not supported yet")
        graph = read_graph(request.prompt, where="prompt")
        now = self._clock()
        if request.expires_at is not None and request.expires_at <= now:
            raise errors.Expired(f"expires_at is {iso(request.expires_at)}, which is over")
        job = Job(
            id=str(uuid.uuid4()),
            workflow=None,
            values={},
            created_at=now,
            priority=request.priority,
            expires_at=request.expires_at,
            transaction=transaction,
            alias=request.id,
            owed=owed,
        )
        images = tuple((target.node, target.input, value) for target, value in (files or {}).items())
        await self._runner.accept([(job, Payload(graph, images))])
        self._name(job)
        return accepted([job])

    def _drawn(self, workflow: Workflow, values: Values, *, step: int, given: set[Target]) -> Values:
        """Return the values of one run: random seeds drawn, others counted up by `step` unless they were given."""
        drawn = dict(values)
        for parameter in workflow.parameters:
            if not is_seed(parameter) or not parameter.targets:
                continue
            value = drawn.get(parameter.targets[0], parameter.default)
            if value == RANDOM:
                value = _draw(parameter)
            elif step and not given & set(parameter.targets) and isinstance(value, int):
                value = (value + step) % (int(parameter.max or 2**64 - 1) + 1)
            else:
                continue
            drawn.update(dict.fromkeys(parameter.targets, value))
        # A seed that is no parameter, set by hand to "random".
        for target, value in drawn.items():
            if value == RANDOM and isinstance(workflow.literal(target), int):
                drawn[target] = _draw(None)
        return drawn

    async def sample(self, name: str) -> Payload:
        """Return what a run of a workflow with nothing set would be, to warm a backend up."""
        found = self._get(name)
        return await found.instantiate(self._drawn(found, {}, step=0, given=set()))

    # What a chain needs

    async def run_part(
        self, workflow: str, values: Mapping[str, Any], *, job_id: str, chain: Job, expires_at: float | None
    ) -> None:
        """Accept a job with these values over those of the workflow's file; it has the chain's place by age."""
        found = self._get(workflow)
        given = {key: value for key, value in values.items() if not isinstance(value, ImageValue)}
        plain, sources = self._values.assignments(found, given)
        images: Values = dict(await self._values.resolve(found, sources, State(found)))
        for key, value in values.items():
            if isinstance(value, ImageValue):
                images.update(dict.fromkeys(found.resolve(key), value))
        drawn = self._drawn(found, {**plain, **images}, step=0, given=set(plain))
        job = Job(
            id=job_id,
            workflow=found.name,
            values=found.shown(drawn),
            created_at=self._clock(),
            priority=chain.priority,
            expires_at=expires_at,
            order=chain.order,
            parent=chain.id,
        )
        await self._runner.accept([(job, await found.instantiate(drawn))])

    async def end_part(self, job_id: str) -> None:
        """End a job that may have ended."""
        with contextlib.suppress(errors.AlreadyOver, errors.UnknownPrompt):
            await self._runner.interrupt(job_id)

    async def find_part(self, job_id: str) -> Job | None:
        """Return a job, ended or not."""
        return await self._runner.find(job_id)

    async def part_output(self, job_id: str, n: int) -> tuple[Output, bytes]:
        """Fetch an output of a job."""
        return await self._lookup.output(job_id, n)


def _draw(parameter: Parameter | None) -> int:
    limit = _SEEDS if parameter is None or parameter.max is None else min(_SEEDS, int(parameter.max) + 1)
    return random.SystemRandom().randrange(limit)
