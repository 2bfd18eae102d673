"""Grids of runs: each run is executed once on this machine or on a Ray cluster.

On this machine they run one after the other, or in processes with one thread each, stopped together and without loss.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from metacontrast.errors import InputError, InUseError

RETRY_SECONDS = 10.0


class RunStatus(Enum):
    """State of a run."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    IN_USE = "in use"
    REQUEUED = "requeued"
    FAILED = "failed"


@dataclass(frozen=True)
class RunContext:
    """Folders of runs and data, and the device."""

    runs: Path
    data_root: Path | None = None
    device: str = "cpu"


@runtime_checkable
class Run(Protocol):
    """One training of a grid; it can be stopped at any moment, and continues when it is executed again."""

    @property
    def label(self) -> str:
        """Name in messages."""
        ...

    @property
    def key(self) -> str:
        """Name among the runs of the grid."""
        ...

    def execute(self, context: RunContext, should_stop: Callable[[], bool]) -> RunStatus:
        """Do what is missing; return complete or stopped; `InUseError` where another process works on the run."""
        ...

    def is_complete(self, root: Path) -> bool:
        """Whether nothing is missing of the run below `root`."""
        ...

    def summary(self, root: Path) -> str:
        """Summarize the results of the complete run below `root` in a few words."""
        ...


@dataclass(frozen=True)
class RunReport:
    """News of a run; `reason` says why where it failed or was requeued."""

    run: Run
    status: RunStatus
    reason: str = ""


def do_nothing() -> None:
    """Do nothing: the preparation of a process that needs none."""


@dataclass(frozen=True)
class Grid:
    """Runs to be executed.

    Args:
        jobs: how many at a time.
        should_stop: asked now and then; when true the runs save and end.
        prepare: called in every process before it computes.
    """

    runs: Sequence[Run]
    context: RunContext
    jobs: int
    should_stop: Callable[[], bool]
    prepare: Callable[[], object] = do_nothing


Runner = Callable[[Grid], Iterator[RunReport]]
"""Executes each run of a grid once."""


def execute_all(grid: Grid, runner: Runner) -> Iterator[RunReport]:
    """Execute all runs; those that another process works on come last, when it is done."""
    todo = grid.runs
    while todo:
        busy = []
        for report in runner(replace(grid, runs=todo)):
            if report.status is RunStatus.IN_USE:
                busy.append(report.run)
            else:
                yield report
        if grid.should_stop():
            return
        todo = busy
        if todo:
            time.sleep(RETRY_SECONDS)


def attempt(run: Run, context: RunContext, should_stop: Callable[[], bool]) -> RunReport:
    """Execute one run in this process; an error that the user can fix becomes its report."""
    try:
        return RunReport(run, run.execute(context, should_stop))
    except InUseError:
        return RunReport(run, RunStatus.IN_USE)
    except InputError as error:
        return RunReport(run, RunStatus.FAILED, str(error))


POLL_SECONDS = 1.0


def run_locally(grid: Grid) -> Iterator[RunReport]:
    """Execute the runs in this process, or where several run at a time in processes of their own."""
    if grid.jobs > 1 and len(grid.runs) > 1:
        yield from _in_processes(grid)
        return
    grid.prepare()
    for run in grid.runs:
        if grid.should_stop():
            return
        yield attempt(run, grid.context, grid.should_stop)


def _in_processes(grid: Grid) -> Iterator[RunReport]:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(grid.jobs, context, _start_worker, (stop, os.getpid(), grid.prepare)) as pool:
        pending = {pool.submit(_work, run, grid.context) for run in grid.runs}
        try:
            yield from _collect(pending, stop, grid.should_stop)
        except BrokenProcessPool as error:
            raise InputError(
                "a training process was killed, perhaps for lack of memory: lower --jobs and continue (train: --resume)"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _collect(pending: set[Future[RunReport]], stop: Any, should_stop: Callable[[], bool]) -> Iterator[RunReport]:
    while pending:
        done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        if should_stop() and not stop.is_set():
            stop.set()
            pending -= {each for each in pending if each.cancel()}
        for future in done & pending:
            pending.remove(future)
            yield future.result()


_should_stop: Callable[[], bool] = lambda: False  # noqa: E731


def _start_worker(stop: Any, parent: int, prepare: Callable[[], object]) -> None:
    """Leave signals to the parent, which asks for a stop through `stop`; die with the parent."""
    global _should_stop
    _should_stop = stop.is_set
    for each in (signal.SIGINT, signal.SIGTERM):  # a scheduler may send either to all processes
        signal.signal(each, signal.SIG_IGN)
    torch.set_num_threads(1)
    prepare()
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def _work(run: Run, context: RunContext) -> RunReport:
    return attempt(run, context, lambda: _should_stop())
