"""One case in one order: every engine in turn, round after round, so that a busy moment meets all alike."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from metacontrast.bench.cases import Case, write_job
from metacontrast.bench.engines import FLOOR, OURS, Engine
from metacontrast.bench.worker import Worker
from metacontrast.maml.inner import Order

TOLERANCE = 1e-4
"""Float32 gradients of the same mathematics differ by less: relative to the length of the whole gradient."""


@dataclass(frozen=True)
class Row:
    """What is known of one engine in one case.

    Args:
        seconds: of one outer gradient, median of the repeats; the floor's is that of its best way.
        ratio_to_best_peer: the fastest right peer's seconds over these: how many times as fast as it.
        ratio_to_floor: these seconds over the floor's.
        peak_mb: the most memory that the engine's process held, in 10⁶ bytes, libraries and data included; none of the
            floor's, which keeps the tensors of all its ways.
        note: what to know: why there are no seconds, a wrong gradient, the floor's way.
        min_seconds: the fastest repeat.
        gradient_error: length of the difference to this library's gradient over the length of that.
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
    seconds: list[float]
    peak_mb: float | None
    note: str
    gradient_error: float | None = None

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
) -> list[Row]:
    """The rows of all engines, in their order.

    Args:
        engines: the one named `floor` times the convolutions alone; the others' gradients are compared with that of
            `ours` if it is among them.
        repeats: measurements of each engine after one that is not counted.
        say: takes a word of progress.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        job = write_job(case, order, device, folder, seed)
        workers = {}
        for engine in engines:
            say(f"case {case.name}, {order} order: {engine.name} starts")
            workers[engine.name] = stack.enter_context(Worker(engine, job, folder))
        times: dict[str, list[Any]] = {engine: [] for engine in workers}
        for number in range(repeats):
            say(f"case {case.name}, {order} order: round {number + 1} of {repeats}")
            for engine, worker in workers.items():
                times[engine].append(worker.measure())
        reference = workers[OURS].gradient() if OURS in workers else None
        found = {engine: _summary(engine, worker, times[engine], reference) for engine, worker in workers.items()}
    return _rows(case.name, order, found)


def _summary(engine: str, worker: Worker, times: list[Any], reference: np.ndarray | None) -> _Measured:
    peak, error = worker.finish(), _relative_error(worker.gradient(), reference)
    if worker.refused:
        return _Measured([], None, worker.refused)
    if engine == FLOOR:
        way = min(times[0], key=lambda way: median(each[way] for each in times))
        return _Measured([each[way] for each in times], None, way)
    measured = _Measured(times, peak, "", error)
    return measured if measured.is_right else _Measured(times, peak, f"wrong gradient (off by {error:.1e})", error)


def _relative_error(gradient: np.ndarray | None, reference: np.ndarray | None) -> float | None:
    if gradient is None or reference is None:
        return None
    if gradient.shape != reference.shape or not np.isfinite(gradient).all():
        return float("inf")
    return float(np.linalg.norm(gradient - reference) / np.linalg.norm(reference))


def _rows(case: str, order: Order, found: dict[str, _Measured]) -> list[Row]:
    seconds = {engine: median(measured.seconds) for engine, measured in found.items() if measured.seconds}
    peers = [s for engine, s in seconds.items() if engine not in (OURS, FLOOR) and found[engine].is_right]
    best, floor = min(peers, default=None), seconds.get(FLOOR)
    rows = []
    for engine, measured in found.items():
        own = seconds.get(engine)
        rows.append(
            Row(
                case,
                engine,
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
        )
    return rows
