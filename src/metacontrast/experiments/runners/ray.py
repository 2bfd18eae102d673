"""Runs as tasks of a Ray cluster: each is started again when its worker dies, at most a few times.

A machine of the cluster takes part only if it sees the folder of runs and the data, and has the same versions.
"""

import contextlib
import platform
import secrets
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metacontrast.errors import InputError, InUseError
from metacontrast.experiments.runners import Grid, Run, RunContext, Runner, RunReport, RunStatus, attempt
from metacontrast.experiments.runners.local import POLL_SECONDS
from metacontrast.experiments.runners.ray_cluster import connected
from metacontrast.files import exclusive
from metacontrast.version import __version__

RETRIES = 3
ANSWER_SECONDS = 120.0
VISIBLE_SECONDS = 90.0
"""For how long a machine may not see what another wrote to a shared file system: NFS keeps listings for a minute."""


@dataclass(frozen=True)
class Agreement:
    """What all machines must have in common: the folder of runs, the versions, the data.

    Args:
        marker: a file in the folder of runs that was made for this grid and is locked as long as it lasts.
        versions: of what decides the numbers.
        check_data: raises `InputError` where the data are not there.
    """

    marker: Path
    versions: dict[str, str]
    check_data: Callable[[], object]

    def breach(self) -> str:
        """Say in one line why this machine cannot take part; empty when it can."""
        here, others = platform.node(), versions()
        if not self.marker.exists():
            return f"{here} does not see the runs in {self.marker.parent}: choose an --out that all machines share"
        for name, wanted in self.versions.items():
            if others[name] != wanted:
                return f"{here} has {name} {others[name]}, not {wanted}: install the same version everywhere"
        try:
            self.check_data()
        except InputError as error:
            return f"{here} does not see the data: {error}"
        return ""

    def locks_reach_here(self) -> bool:
        """Whether this machine notices a lock that the machine which made the marker holds."""
        try:
            with exclusive(self.marker, "held, as it should be"):
                return False
        except InUseError:
            return True


def versions() -> dict[str, str]:
    """Return the versions of what decides the numbers, without the kind of build."""
    found = {"metacontrast": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return {name: str(version).partition("+")[0] for name, version in found.items()}


@contextlib.contextmanager
def agreement(runs: Path, check_data: Callable[[], object]) -> Iterator[Agreement]:
    """Make an agreement whose marker lies in the folder `runs`."""
    marker = runs / f".grid-{secrets.token_hex(8)}"
    with exclusive(marker, "held by this grid"):
        try:
            yield Agreement(marker, versions(), check_data)
        finally:
            marker.unlink(missing_ok=True)


@contextlib.contextmanager
def ray_runner(
    context: RunContext, jobs: int, address: str | None, check_data: Callable[[], object], say: Callable[[str], None]
) -> Iterator[Runner]:
    """A runner on the cluster at `address`, or without one on a Ray of its own with `jobs` processors.

    Args:
        context: with absolute paths, the same on every machine.
        check_data: raises `InputError` on a machine that lacks the data.
        say: takes messages to the person.

    Raises:
        InputError: there is no such cluster, or one of its machines cannot take part.
    """
    with connected(address, jobs), agreement(context.runs, check_data) as agreed:
        _check_resources(context)
        if address is not None:
            _check_machines(agreed, say)
        yield partial(_execute, agreed)


def _check_resources(context: RunContext) -> None:
    import ray

    wanted = "GPU" if context.device == "cuda" else "CPU"
    if ray.cluster_resources().get(wanted, 0) < 1:
        raise InputError(
            f"the Ray cluster offers no {wanted} for --device {context.device}: add one or change --device"
        )


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
            say(f"note: locks in {agreed.marker.parent} are not shared with {machine}: start no second grid here")


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
    """Runs to be started, runs under way, and how often workers died."""

    todo: deque[Run]
    running: dict[Any, Run] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    is_stopping: bool = False

    def start(self, submit: Callable[[Run], Any], at_once: int) -> None:
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

    def requeue(self, run: Run, reason: str) -> RunReport:
        """Requeue a run whose worker died, at most `RETRIES` times."""
        self.deaths[run.key] += 1
        if self.deaths[run.key] > RETRIES:
            reason = f"its worker died {self.deaths[run.key]} times, the last time: {reason}"
            return RunReport(run, RunStatus.FAILED, reason)
        if self.is_stopping:
            return RunReport(run, RunStatus.STOPPED)
        self.todo.append(run)
        return RunReport(run, RunStatus.REQUEUED, "its worker died, another takes it up")


def _execute(agreed: Agreement, grid: Grid) -> Iterator[RunReport]:
    import ray

    gpus = 1 if grid.context.device == "cuda" else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_work)
    queue = _Queue(deque(grid.runs))
    try:
        while queue.todo or queue.running:
            queue.start(lambda run: task.remote(run, grid.context, agreed, grid.prepare), grid.jobs)
            done, _ = ray.wait(list(queue.running), timeout=POLL_SECONDS)
            if grid.should_stop() and not queue.is_stopping:
                queue.stop()
            for reference in done:
                run = queue.running.pop(reference)
                if (report := _report(reference, run, grid.context, queue)) is not None:
                    yield report
    finally:
        queue.stop()


def _report(reference: Any, run: Run, context: RunContext, queue: _Queue) -> RunReport | None:
    """Return how a run ended; None where it was cancelled before it began."""
    import ray
    from ray.exceptions import RayError, RayTaskError, TaskCancelledError

    try:
        report: Any = ray.get(reference)
    except TaskCancelledError:
        return None
    except RayTaskError:
        raise
    except RayError as error:
        return queue.requeue(run, str(error).splitlines()[0])
    if report.status is RunStatus.COMPLETE and not _is_seen(run, context):
        reason = f"what its worker wrote is not seen in {context.runs}: choose an --out that all machines share"
        return RunReport(run, RunStatus.FAILED, reason)
    return report


def _is_seen(run: Run, context: RunContext) -> bool:
    """Whether a run that is complete elsewhere is so here, at once or when the file system has caught up."""
    until = time.monotonic() + VISIBLE_SECONDS
    while not run.is_complete(context.runs):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _work(run: Run, context: RunContext, agreed: Agreement, prepare: Callable[[], object]) -> RunReport:
    """Execute a run in a worker. Ray cancels by an interrupt, which here means: save after this update and end."""
    import ray

    signal.signal(signal.SIGINT, lambda *_: None)
    torch.set_num_threads(1)
    prepare()
    if breach := agreed.breach():
        return RunReport(run, RunStatus.FAILED, breach)
    return attempt(run, context, ray.get_runtime_context().is_canceled)
