"""Many runs, some at a time: each in a process with one thread, stopped together and without loss."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from metacontrast.errors import InputError, InUseError
from metacontrast.experiments.grid import Place, PlannedRun, carry_out

POLL_SECONDS = 1.0
RETRY_SECONDS = 10.0
Outcome = tuple[PlannedRun, str]
"""A run, and `complete`, `stopped`, `in use`, or `failed: ` with the reason; anything else is news of its progress."""
Engine = Callable[[Sequence[PlannedRun], Place, int, Callable[[], bool], Callable[[], object]], Iterator[Outcome]]
"""What carries out each of several runs once; its arguments are those of `carry_out_all`."""


def carry_out_all(
    runs: Sequence[PlannedRun],
    place: Place,
    jobs: int,
    should_stop: Callable[[], bool],
    prepare: Callable[[], object] = gc.collect,
    engine: Engine | None = None,
) -> Iterator[Outcome]:
    """Carry out all runs, `jobs` at a time; those that another process works on come last, when it is done.

    Args:
        prepare: called in every process before it computes.
        engine: where they are carried out; None is processes on this machine.
    """
    engine = engine or on_this_machine
    todo = list(runs)
    while todo:
        busy = []
        for run, status in engine(todo, place, jobs, should_stop, prepare):
            if status == "in use":
                busy.append(run)
            else:
                yield run, status
        if should_stop():
            return
        todo = busy
        if todo:
            time.sleep(RETRY_SECONDS)


def on_this_machine(
    runs: Sequence[PlannedRun],
    place: Place,
    jobs: int,
    should_stop: Callable[[], bool],
    prepare: Callable[[], object],
) -> Iterator[Outcome]:
    """Carry out each run once, `jobs` at a time, each in a process of its own when there are several."""
    if jobs > 1 and len(runs) > 1:
        yield from _in_processes(runs, place, jobs, should_stop, prepare)
        return
    prepare()
    for run in runs:
        if should_stop():
            return
        yield run, attempt(run, place, should_stop)


def attempt(run: PlannedRun, place: Place, should_stop: Callable[[], bool]) -> str:
    """Carry out one run in this process; what the user can mend becomes the outcome."""
    try:
        return carry_out(run, place, should_stop)
    except InUseError:
        return "in use"
    except InputError as error:
        return f"failed: {error}"


def _in_processes(
    runs: Sequence[PlannedRun],
    place: Place,
    jobs: int,
    should_stop: Callable[[], bool],
    prepare: Callable[[], object],
) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(jobs, context, _start_worker, (stop, os.getpid(), prepare)) as pool:
        pending: dict[Future[str], PlannedRun] = {pool.submit(_work, run, place): run for run in runs}
        try:
            yield from _collect(pending, stop, should_stop)
        except BrokenProcessPool as error:
            raise InputError(
                "a process that trained was killed, perhaps for memory: the same command continues; lower --jobs"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _collect(pending: dict[Future[str], PlannedRun], stop: Any, should_stop: Callable[[], bool]) -> Iterator[Outcome]:
    while pending:
        done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        if should_stop() and not stop.is_set():
            stop.set()
            for future in [each for each in pending if each.cancel()]:
                del pending[future]
        for future in done & pending.keys():
            yield pending.pop(future), future.result()


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


def _work(run: PlannedRun, place: Place) -> str:
    return attempt(run, place, lambda: _should_stop())
