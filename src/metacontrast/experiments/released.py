"""The released numbers of the paper's code, packaged: curves, final accuracies and similarity maps."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from metacontrast.experiments.spec import Line


@dataclass(frozen=True)
class Released:
    """A released curve.

    Args:
        seeds: how many it averages.
        updates, mean, std: accuracy and its sample standard deviation over seeds; empty where only the end is known.
        end: the last update.
        final: mean of the last five evaluations, and its standard deviation over seeds.
        as_plotted: where the published curve ends, if that is something else.
    """

    seeds: int
    updates: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    end: int
    final: tuple[float, float] | None
    as_plotted: float | None

    def at(self, update: int) -> tuple[float, float] | None:
        """Mean and deviation after so many updates, straight between evaluations of a training that has begun.

        None where the curve is unknown.
        """
        first = next((each for each in self.updates if each > 0), None)
        if first is None or not first <= update <= self.updates[-1]:
            return None
        mean, std = (float(np.interp(update, self.updates, values)) for values in (self.mean, self.std))
        return mean, std


def released_curve(line: Line, quantity: str) -> Released | None:
    """What was released of a line's quantity."""
    head, _, steps = line.named(quantity).partition("/")
    if line.released is None or head not in ("kept", "zeroed"):
        return None
    wanted = {"shots": line.released.shots, "curve": line.released.curve, "zeroed": int(head == "zeroed")}
    for row in _rows():
        if line.released.figure in row["figures"] and all(row[name] == value for name, value in wanted.items()):
            return _as_released(row, steps)
    return None


def is_of_bound_tasks(line: Line) -> bool:
    """Whether the released code tested the line's counterpart on tasks with bound labels, as it trained it."""
    return line.config.labels == "bound-tuples"


def is_same_test(line: Line) -> bool:
    """Whether the released numbers are of the line's own data set and kind of test tasks."""
    return line.config.dataset in ("omniglot", "mini-imagenet") and not is_of_bound_tasks(line)


def released_similarities() -> Mapping[str, Mapping[str, Any]]:
    """By variant and update: maps and contrasts."""
    return json.loads(_read("released-similarities.json"))["variants"]


def source() -> str:
    """Where the numbers come from."""
    return json.loads(_read("released-accuracies.jsonl").splitlines()[0])["source"]


def _as_released(row: Mapping[str, Any], steps: str) -> Released | None:
    final = row["final"].get(steps)
    is_drawn = int(steps) == row["steps"]
    if final is None and not is_drawn:
        return None
    updates, mean, std = (row[name] if is_drawn else () for name in ("updates", "mean", "std"))
    plotted = row.get("as_plotted") if is_drawn else None
    seeds = row["seeds"]
    of_a_sample = math.sqrt(seeds / max(1, seeds - 1))  # the file has the deviation of a population
    deviations = [value * of_a_sample for value in std]
    at_the_end = final and (final[0], final[1] * of_a_sample)
    return Released(seeds, updates, mean, deviations, row["updates"][-1], at_the_end, plotted)


@cache
def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in _read("released-accuracies.jsonl").splitlines()[1:]]


def _read(name: str) -> str:
    return (files("metacontrast.experiments") / "data" / name).read_text(encoding="utf-8")
