"""One case in one order: every engine in turn, round after round, so that a busy moment meets all alike."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gradients.cases import Case, build_model, write_job
from gradients.engines import FLOOR, OURS, OWN, Engine
from gradients.peers.job import Job
from gradients.worker import Worker, exact_gradient
from metacontrast.types import Order

TOLERANCE = 1e-6
"""Float64 gradients of the same mathematics differ by less, relative to the length of the whole gradient."""


@dataclass(frozen=True)
class Timing:
    """What is known of one engine in one case.

    Args:
        seconds: of one outer gradient, median of the repeats; the floor's is that of its best way.
        ratio_to_best_peer: the fastest right peer's seconds over these: how many times as fast as it.
        ratio_to_floor: these seconds over the floor's.
        peak_mb: the most memory that the engine's process held, in 10⁶ bytes, libraries and data included; none of the
            floor's, which keeps the tensors of all its ways.
        note: what to know: why there are no seconds, a wrong gradient, the floor's way.
        min_seconds: the fastest repeat.
        gradient_error: length of the difference to this library's gradient over the length of that, in float64.
    """

    case: str
    engine: str
    order: Order
    seconds: float | None
    ratio_to_best_peer: float | None
    ratio_to_floor: float | None
    peak_mb: float | None
    note: str = ""
    min_seconds: float | None = None
    gradient_error: float | None = None
    repeats: int = 0


@dataclass(frozen=True)
class _Measured:
    engine: str
    seconds: tuple[float, ...] = ()
    peak_mb: float | None = None
    note: str = ""
    gradient_error: float | None = None

    @property
    def median(self) -> float | None:
        return median(self.seconds) if self.seconds else None

    @property
    def is_right(self) -> bool:
        return self.gradient_error is None or self.gradient_error <= TOLERANCE


def measure(
    case: Case,
    order: Order,
    engines: Sequence[Engine],
    repeats: int,
    device: str = "cpu",
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> list[Timing]:
    """The rows of all engines, in their order.

    Args:
        engines: the one named `floor` times the convolutions alone; the others' gradients are compared in float64 with
            that of `ours`, if it is among them, before anything is timed.
        repeats: measurements of each engine after one that is not counted.
        say: takes a word of progress.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timed_job = write_job(case, order, device, folder, seed)
        few = replace(case, name=f"{case.name}-few", tasks=min(case.tasks, _COMPARED))
        compared_job = write_job(few, order, device, folder, seed)
        gradients: dict[str, np.ndarray | str] = {}
        for engine in engines:
            if engine.name != FLOOR:
                say(f"case {case.name}, {order} order: gradient of {engine.name}")
                gradients[engine.name] = _compared(case, exact_gradient(engine, compared_job, folder))
        able = [engine for engine in engines if not isinstance(gradients.get(engine.name), str)]
        found = _timed(able, timed_job, folder, repeats, say)
    return _rows(case.name, order, [_judged(engine.name, found.get(engine.name), gradients) for engine in engines])


_COMPARED = 2
"""Tasks whose gradient is compared."""


def _compared(case: Case, gradient: np.ndarray | str) -> np.ndarray | str:
    """The part of a flat gradient that engines agree on: without that of a head that is set to zero afterwards."""
    if isinstance(gradient, str) or case.head == "learned":
        return gradient
    return gradient[: -case.ways * (build_model(case).feature_size + 1)]


def _timed(
    engines: Sequence[Engine], job: Job, folder: Path, repeats: int, say: Callable[[str], None]
) -> dict[str, _Measured]:
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for engine in engines:
            say(f"case {job.name}, {job.order} order: {engine.name} starts")
            workers[engine.name] = stack.enter_context(Worker(engine, job, folder))
        times: dict[str, list[Any]] = {engine: [] for engine in workers}
        for number in range(repeats):
            say(f"case {job.name}, {job.order} order: round {number + 1} of {repeats}")
            for engine, worker in workers.items():
                times[engine].append(worker.measure())
        return {engine: _summary(engine, worker, times[engine]) for engine, worker in workers.items()}


def _summary(engine: str, worker: Worker, times: list[Any]) -> _Measured:
    peak = worker.finish()
    if worker.refused:
        return _Measured(engine, note=worker.refused)
    if engine == FLOOR:
        way = min(times[0], key=lambda way: median(each[way] for each in times))
        return _Measured(engine, tuple(each[way] for each in times), note=way)
    return _Measured(engine, tuple(times), peak)


def _judged(engine: str, measured: _Measured | None, gradients: dict[str, np.ndarray | str]) -> _Measured:
    """The measurement with what is known of the engine's gradient."""
    own, ours = gradients.get(engine), gradients.get(OURS)
    if measured is None:
        return _Measured(engine, note=str(own))
    if not isinstance(own, np.ndarray) or not isinstance(ours, np.ndarray):
        return measured
    error = _relative_error(own, ours)
    note = measured.note if error <= TOLERANCE else f"wrong gradient (off by {error:.1e})"
    return replace(measured, gradient_error=error, note=note)


def _relative_error(gradient: np.ndarray, reference: np.ndarray) -> float:
    if gradient.shape != reference.shape or not np.isfinite(gradient).all():
        return float("inf")
    return float(np.linalg.norm(gradient - reference) / np.linalg.norm(reference))


def _rows(case: str, order: Order, found: Sequence[_Measured]) -> list[Timing]:
    peers = [m.median for m in found if m.median and m.engine not in OWN and m.is_right]
    best, floor = min(peers, default=None), next((m.median for m in found if m.engine == FLOOR), None)
    return [_row(case, order, measured, best, floor) for measured in found]


def _row(case: str, order: Order, measured: _Measured, best: float | None, floor: float | None) -> Timing:
    own = measured.median
    return Timing(
        case,
        measured.engine,
        order,
        own,
        best / own if best and own else None,
        own / floor if own and floor else None,
        measured.peak_mb,
        measured.note,
        min(measured.seconds, default=None),
        measured.gradient_error,
        len(measured.seconds),
    )
