"""Worker processes that are simulated, to load a search's driver with more of them than this machine can hold.

Tune's own controller and the whole driver run as always. Only Tune's manager of actors is another one: what its workers
do takes time on a clock that is simulated too. Between two of its events that clock goes on by the time that the driver
took, Ray's calls and its waiting for the disk among it: every task is a real remote call of an actor that only answers.
So the figures need a quiet machine, and are those of one where no worker takes the driver's processor.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import ray
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.tune.execution import tune_controller
from ray.tune.result import RESULT_DUPLICATE

from effir_dist.runs.told import TOLD
from effir_dist.search.cluster.worker import Job
from effir_dist.search.strategy.next_trial import TrialQueue

CALL_SECONDS = 0.005
"""From a call by the driver to the answer of an idle worker, threads of Tune's in that process included."""
SPREAD = 0.2
"""By how much trials are shorter or longer than others, as a share."""
Finish = Callable[[Job, int], str]
"""finish(job, worker) writes the record of a trial and returns what the worker tells of it."""


@dataclass
class Worker:
    """A worker process."""

    number: int
    job: Job
    calls: int = 0
    """Of `train` in this trial."""
    begun: float = 0.0
    ended: float | None = None
    busy: float = 0.0
    waited: list[float] = field(default_factory=list)
    """Seconds from the end of a trial's work to the start of the next one's."""

    @property
    def share(self) -> float:
        """Of its time in which it waited."""
        return sum(self.waited) / (sum(self.waited) + self.busy)


@dataclass(order=True)
class _Task:
    due: float
    number: int
    actor: Any = field(compare=False)
    answer: Any = field(compare=False)
    reference: Any = field(compare=False)
    on_result: Any = field(compare=False)


class SimulatedActors:
    """What `TuneController` asks of Ray's `RayActorManager`."""

    def __init__(self, seconds: float, finish: Finish) -> None:
        """seconds: that a trial takes, more or less."""
        self.seconds, self.finish = seconds, finish
        self.now, self._used = 0.0, time.perf_counter()
        self.charged = 0.0
        """Seconds that the driver took."""
        self.workers: dict[TrackedActor, Worker] = {}
        self._random = random.Random(0)
        self._ids, self._tasks = itertools.count(), list[_Task]()
        self._answers = ray.remote(num_cpus=0)(_Answers).remote()
        self._live_actors_to_ray_actors_resources = defaultdict[TrackedActor, Any](lambda: (self._answers, None))

    num_pending_actors = num_total_actors = 0

    @property
    def num_live_actors(self) -> int:
        return len(self.workers)

    @property
    def num_actor_tasks(self) -> int:
        return len(self._tasks)

    def add_actor(self, cls: Any, resource_request: Any, kwargs: dict[str, Any], **events: Any) -> TrackedActor:
        actor = TrackedActor(next(self._ids), **events)
        self.workers[actor] = Worker(actor.actor_id, kwargs["config"]["job"])
        self._schedule(actor, CALL_SECONDS, None, lambda found, _: events["on_start"](found))
        return actor

    def remove_actor(self, tracked_actor: TrackedActor, kill: bool = False, stop_future: Any = None) -> bool:
        return False

    def is_actor_started(self, tracked_actor: TrackedActor) -> bool:
        return True

    def is_actor_failed(self, tracked_actor: TrackedActor) -> bool:
        return False

    def get_live_actors_resources(self) -> dict[str, float]:
        return {}

    def clear_actor_task_futures(self, tracked_actor: TrackedActor) -> None: ...
    def cleanup(self) -> None: ...

    def schedule_actor_task(
        self,
        tracked_actor: TrackedActor,
        method_name: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        on_result: Any = None,
        on_error: Any = None,
        _return_future: bool = False,
    ) -> None:
        worker = self.workers[tracked_actor]
        if method_name == "reset":
            worker.job, worker.calls = args[0]["job"], 0
            self._schedule(tracked_actor, CALL_SECONDS, True, on_result, args)
        elif method_name == "train":
            self._train(tracked_actor, worker, on_result)

    def _train(self, actor: TrackedActor, worker: Worker, on_result: Any) -> None:
        """The next of a trial's three reports: it has begun, it has its record, it returned."""
        worker.calls += 1
        if worker.calls == 1:
            self.charge()
            worker.begun = self.now + CALL_SECONDS / 2
            if worker.ended is not None:
                worker.waited.append(worker.begun - worker.ended)
            answer: dict[str, Any] = {"phase": "train", "step": 0, "steps": 1, "nodes": "here"}
        else:
            answer = {"phase": "score"} if worker.calls == 2 else {RESULT_DUPLICATE: True}
        seconds = self.seconds * self._random.uniform(1 - SPREAD, 1 + SPREAD)
        self._schedule(actor, seconds if worker.calls == 2 else CALL_SECONDS, answer, on_result)

    def _schedule(self, actor: TrackedActor, seconds: float, answer: Any, on_result: Any, args: Any = ()) -> None:
        self.charge()
        reference = self._answers.answer.remote(*args)
        heapq.heappush(self._tasks, _Task(self.now + seconds, next(self._ids), actor, answer, reference, on_result))

    def charge(self) -> None:
        """Let the clock go on by what the driver took since."""
        used = time.perf_counter()
        self.now += used - self._used
        self.charged += used - self._used
        self._used = used

    @contextlib.contextmanager
    def not_charged(self) -> Iterator[None]:
        """What the block takes is left out."""
        self.charge()
        yield
        self._used = time.perf_counter()

    def next(self, timeout: float = 0.1) -> bool:
        """Wait for the next answer, and pass it on; False where none comes in time."""
        self.charge()
        if not self._tasks or self._tasks[0].due > self.now + timeout:
            self.now += timeout
            return False
        task = heapq.heappop(self._tasks)
        self.now = max(self.now, task.due)
        ray.wait([task.reference, *(other.reference for other in self._tasks)], num_returns=1)
        ray.get(task.reference)
        worker = self.workers[task.actor]
        if worker.calls == 2 and isinstance(task.answer, dict):
            worker.ended, worker.busy = task.due, worker.busy + task.due - worker.begun
            with self.not_charged():
                task.answer[TOLD] = self.finish(worker.job, worker.number)
        if task.on_result:
            task.on_result(task.actor, task.answer)
        return True


class _Answers:
    """The one real actor, behind all that are simulated."""

    def answer(self, *args: Any) -> None: ...
    def get_auto_filled_metrics(self, **_: Any) -> dict[str, Any]:
        return {"timestamp": 0, "pid": 0, "hostname": "here", "node_ip": "127.0.0.1"}


@contextlib.contextmanager
def simulated(seconds: float, finish: Finish) -> Iterator[list[SimulatedActors]]:
    """In the block Tune's workers are simulated, and proposals of plans take no time on their clock.

    Yields a list that holds the workers once a search has begun.
    """
    begun: list[SimulatedActors] = []

    def manager(resource_manager: object) -> SimulatedActors:
        begun.append(SimulatedActors(seconds, finish))
        return begun[0]

    propose = TrialQueue._propose

    def timeless(queue: TrialQueue, number: int) -> Any:
        with begun[0].not_charged():
            return propose(queue, number)

    with (
        mock.patch.object(tune_controller, "RayActorManager", manager),
        mock.patch.object(TrialQueue, "_propose", timeless),
    ):
        yield begun
