"""Many runs on the machines of a Ray cluster: each run is one task, started again when its worker dies."""

import contextlib
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from metacontrast.errors import InputError
from metacontrast.experiments.grid import Place, PlannedRun
from metacontrast.experiments.pool import POLL_SECONDS, Engine, Outcome, attempt
from metacontrast.experiments.ray_agreement import Agreement, agreement
from metacontrast.experiments.ray_cluster import connected

RETRIES = 3
ANSWER_SECONDS = 120.0
VISIBLE_SECONDS = 90.0
"""For how long a machine may not see what another wrote to a shared file system: NFS keeps listings for a minute."""


@contextlib.contextmanager
def ray_engine(
    place: Place, jobs: int, address: str | None, check_data: Callable[[], object], say: Callable[[str], None]
) -> Iterator[Engine]:
    """What carries out runs on the cluster at `address`, or without one on a Ray of its own with `jobs` processors.

    Args:
        place: with absolute paths, the same on every machine.
        check_data: raises `InputError` on a machine that lacks the data.
        say: takes messages to the person.

    Raises:
        InputError: there is no such cluster, or one of its machines cannot take part.
    """
    with connected(address, jobs), agreement(place.runs, check_data) as agreed:
        _check_resources(place)
        if address is not None:
            _check_machines(agreed, say)
        yield partial(_carry_out, agreed)


def _check_resources(place: Place) -> None:
    import ray

    wanted = "GPU" if place.device == "cuda" else "CPU"
    if ray.cluster_resources().get(wanted, 0) < 1:
        raise InputError(f"the Ray cluster offers no {wanted} for --device {place.device}: add one or change --device")


def _check_machines(agreed: Agreement, say: Callable[[str], None]) -> None:
    """Ask every machine whether it can take part."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    answers = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU"):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answers[node["NodeManagerAddress"]] = look.options(scheduling_strategy=there).remote(agreed)
    for machine, answer in answers.items():
        breach, locks_reach = _answer(machine, answer)
        if breach:
            raise InputError(breach)
        if not locks_reach:
            say(f"note: locks in {agreed.marker.parent} do not reach {machine}: start no second grid over this folder")


def _look(agreed: Agreement) -> tuple[str, bool]:
    breach = agreed.breach()
    return breach, not breach and agreed.locks_reach_here()


def _answer(machine: str, reference: Any) -> tuple[str, bool]:
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(reference, timeout=ANSWER_SECONDS)
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"the machine {machine} of the Ray cluster cannot take part: {reason}") from error


@dataclass
class _Queue:
    """What is still to be started, what runs, and how often workers died."""

    todo: deque[PlannedRun]
    running: dict[Any, PlannedRun] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    is_stopping: bool = False

    def start(self, submit: Callable[[PlannedRun], Any], at_once: int) -> None:
        while self.todo and len(self.running) < at_once:
            run = self.todo.popleft()
            self.running[submit(run)] = run

    def stop(self) -> None:
        """Start nothing more, and ask those that run to save and end."""
        import ray

        self.is_stopping = True
        self.todo.clear()
        for reference in self.running:
            ray.cancel(reference, force=False)

    def bury(self, run: PlannedRun, reason: str) -> str:
        """Put a run whose worker died back into the line, but not for ever."""
        self.deaths[run.key] += 1
        if self.deaths[run.key] > RETRIES:
            return f"failed: its worker died {self.deaths[run.key]} times, the last time: {reason}"
        if self.is_stopping:
            return "stopped"
        self.todo.append(run)
        return "its worker died, another takes it up"


def _carry_out(
    agreed: Agreement,
    runs: Sequence[PlannedRun],
    place: Place,
    jobs: int,
    should_stop: Callable[[], bool],
    prepare: Callable[[], object],
) -> Iterator[Outcome]:
    import ray

    gpus = 1 if place.device == "cuda" else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_work)
    queue = _Queue(deque(runs))
    try:
        while queue.todo or queue.running:
            queue.start(lambda run: task.remote(run, place, agreed, prepare), jobs)
            done, _ = ray.wait(list(queue.running), timeout=POLL_SECONDS)
            if should_stop() and not queue.is_stopping:
                queue.stop()
            for reference in done:
                run = queue.running.pop(reference)
                status = _status(reference, run, place, queue)
                if status != _TAKEN_BACK:
                    yield run, status
    finally:
        queue.stop()


_TAKEN_BACK = "taken back before it began"


def _status(reference: Any, run: PlannedRun, place: Place, queue: _Queue) -> str:
    import ray
    from ray.exceptions import RayError, RayTaskError, TaskCancelledError

    try:
        status: Any = ray.get(reference)
    except TaskCancelledError:
        return _TAKEN_BACK
    except RayTaskError:
        raise
    except RayError as error:
        return queue.bury(run, str(error).splitlines()[0])
    if status == "complete" and not _is_seen(run, place):
        return f"failed: what its worker wrote is not seen in {place.runs}: choose an --out that all machines share"
    return status


def _is_seen(run: PlannedRun, place: Place) -> bool:
    """Whether a run that is complete elsewhere is so here, at once or when the file system has caught up."""
    until = time.monotonic() + VISIBLE_SECONDS
    while not run.is_complete(place.runs):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _work(run: PlannedRun, place: Place, agreed: Agreement, prepare: Callable[[], object]) -> str:
    """In a worker. Ray's cancelling interrupts it, which is to mean: save after this update and end."""
    import ray

    signal.signal(signal.SIGINT, lambda *_: None)
    torch.set_num_threads(1)
    prepare()
    if breach := agreed.breach():
        return f"failed: {breach}"
    return attempt(run, place, ray.get_runtime_context().is_canceled)
