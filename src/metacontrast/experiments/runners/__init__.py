"""Grids of runs: each run is executed once on this machine or on a Ray cluster."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Protocol, runtime_checkable

from metacontrast.errors import InputError, InUseError

RETRY_SECONDS = 10.0


class RunStatus(Enum):
    """How a run stands."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    IN_USE = "in use"
    REQUEUED = "requeued"
    FAILED = "failed"


@dataclass(frozen=True)
class RunContext:
    """Where runs and data lie, and on what to compute."""

    runs: Path
    data_root: Path | None = None
    device: str = "cpu"


@runtime_checkable
class Run(Protocol):
    """One training of a grid; it can be stopped at any moment, and continues when it is executed again."""

    @property
    def label(self) -> str:
        """Its name for people."""
        ...

    @property
    def key(self) -> str:
        """Its name among the runs of the grid."""
        ...

    def execute(self, context: RunContext, should_stop: Callable[[], bool]) -> RunStatus:
        """Do what is missing: complete or stopped; `InUseError` where another process is at it."""
        ...

    def is_complete(self, root: Path) -> bool:
        """Whether nothing is missing of the run below `root`."""
        ...

    def summary(self, root: Path) -> str:
        """What came out of the complete run below `root`, in a few words."""
        ...


@dataclass(frozen=True)
class RunReport:
    """News of a run; `reason` says why where it failed or was requeued."""

    run: Run
    status: RunStatus
    reason: str = ""


def do_nothing() -> None:
    """The preparation of a process that needs none."""


@dataclass(frozen=True)
class Grid:
    """Runs to be executed.

    Args:
        runs: each once.
        context: where and on what.
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
