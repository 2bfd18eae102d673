"""This library and the floor as engines of the table: `python -m gradients.ours ours` is the process of one."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

import torch
from torch import Tensor

from gradients.cases import build_model, case_of
from gradients.engines import FLOOR, ONE_WORKER, OURS
from gradients.floor import floor_clock, ways
from gradients.peers.job import Job
from gradients.peers.process import Measure, serve, timed
from metacontrast.device import keep_freed_memory
from metacontrast.maml.engine import meta_gradient
from metacontrast.types import Episode, Inner, Order, from_tensors, to_tensors


def prepare(job: Job, workers: int | None = None) -> Callable[[], list[Tensor]]:
    """`meta_gradient` as `metacontrast train` calls it, with `--workers` if given."""
    case = case_of(job)
    model = build_model(case).to(job.device)
    params = from_tensors(model.empty_params(), job.params())
    episodes = Episode(*job.batch())
    inner = Inner(case.steps, case.lr, case.scope, cast(Order, job.order))
    asked = workers or os.cpu_count() or 1
    used = min(asked, case.tasks)
    torch.set_num_threads(max(1, asked // used))
    executor = ThreadPoolExecutor(used) if job.device == "cpu" else None
    return lambda: to_tensors(meta_gradient(model, params, episodes, inner, executor)[0])


def start_floor(job: Job) -> Measure:
    """Each measurement times once every way that could be the best one."""
    case, order = case_of(job), cast(Order, job.order)
    threads = torch.get_num_threads()
    clocks = {str(way): floor_clock(case, order, job.device, way, threads) for way in ways(job.device)}
    first = {way: min(clock(), clock()) for way, clock in clocks.items()}
    hopeful = {way: clocks[way] for way, seconds in first.items() if seconds < _HOPELESS * min(first.values())}
    return lambda: {"seconds": {way: clock() for way, clock in hopeful.items()}}


_HOPELESS = 1.5
"""A way that took this many times the best one's seconds at the start is not tried again."""

if __name__ == "__main__":
    keep_freed_memory()
    engines = {OURS: timed(prepare), ONE_WORKER: timed(partial(prepare, workers=1)), FLOOR: start_floor}
    serve(engines[sys.argv[1]])
