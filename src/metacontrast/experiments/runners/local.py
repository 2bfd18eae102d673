"""Runs in processes of this machine, each with one thread, stopped together and without loss."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from metacontrast.errors import InputError
from metacontrast.experiments.runners import Grid, Run, RunContext, RunReport, attempt

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
                "a training process was killed, perhaps for lack of memory: the same command continues; lower --jobs"
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
    """Leave Ctrl-C to the parent, which asks for a stop through `stop`; die with the parent."""
    global _should_stop
    _should_stop = stop.is_set
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    prepare()
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def _work(run: Run, context: RunContext) -> RunReport:
    return attempt(run, context, lambda: _should_stop())
