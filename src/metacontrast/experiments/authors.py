"""The authors' published numbers, packaged: learning curves, final accuracies and similarity maps."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from metacontrast.experiments.claims import EARLY, Accuracy, Quantity, Similarity, When
from metacontrast.experiments.spec import AuthorsCurve, Curve


@dataclass(frozen=True)
class AuthorsNumbers:
    """Numbers of one of the authors' curves.

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
        """Interpolate mean and deviation after `update` updates of a training that has begun.

        None where the curve is unknown.
        """
        first = next((each for each in self.updates if each > 0), None)
        if first is None or not first <= update <= self.updates[-1]:
            return None
        mean, std = (float(np.interp(update, self.updates, values)) for values in (self.mean, self.std))
        return mean, std

    @property
    def points(self) -> dict[int, float]:
        """Mean by update, after the start of training."""
        return {update: mean for update, mean in zip(self.updates, self.mean, strict=True) if update > 0}

    def of(self, when: When) -> tuple[float, float] | None:
        """Return mean and deviation at the end of the training, or after the first fifth of it."""
        return self.final if when == "end" else self.at(self.end // EARLY)


def authors_numbers(curve: Curve, quantity: Quantity) -> AuthorsNumbers | None:
    """Find the authors' numbers of a curve's quantity; None where there are none."""
    if curve.authors is None or not isinstance(quantity, Accuracy) or quantity.is_bound:
        return None
    steps = curve.config.inner_steps if quantity.steps is None else quantity.steps
    return find_numbers(curve.authors, Accuracy(quantity.head, steps))


def find_numbers(place: AuthorsCurve, accuracy: Accuracy) -> AuthorsNumbers | None:
    """Find the numbers of one of the authors' curves; None where there are none."""
    wanted = {"shots": place.shots, "curve": place.curve, "zeroed": int(accuracy.head == "zeroed")}
    for row in _rows():
        if place.figure in row["figures"] and all(row[name] == value for name, value in wanted.items()):
            return _as_numbers(row, str(accuracy.steps))
    return None


def in_points(difference: float) -> str:
    """Format a difference of accuracies with its sign, in points.

    >>> in_points(-0.0123), in_points(-0.0001)
    ('−1.2', '+0.0')
    """
    return f"{round(100 * difference, 1) + 0.0:+.1f}".replace("-", "−")


def is_of_bound_tasks(curve: Curve) -> bool:
    """Tell whether the authors' code tested the counterpart on non-mutually-exclusive tasks, as it trained it."""
    return curve.config.labels == "bound-tuples"


def is_same_test(curve: Curve) -> bool:
    """Tell whether the authors' numbers are of the curve's own data set and kind of test tasks."""
    return curve.config.dataset in ("omniglot", "mini-imagenet") and not is_of_bound_tasks(curve)


@cache
def authors_similarities() -> Mapping[str, Mapping[str, Any]]:
    """Load the authors' maps and contrasts by treatment of the head and update."""
    return json.loads(_read("released-similarities.json"))["variants"]


def authors_similarity(name: str, quantity: Similarity, when: When) -> float | None:
    """Return the value after 11 updates (early) or 101, mean over seeds, without pairs of an image with itself."""
    values = authors_similarities()[name]["11" if when == "early" else "101"].get(quantity.pair, {})
    kind = "diag" if quantity.is_within_class else "contrast"
    return values.get(f"{kind}_without_self_pairs", values.get(kind))


def source() -> str:
    """Return where the numbers come from."""
    return json.loads(_read("released-accuracies.jsonl").splitlines()[0])["source"]


def _as_numbers(row: Mapping[str, Any], steps: str) -> AuthorsNumbers | None:
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
    return AuthorsNumbers(seeds, updates, mean, deviations, row["updates"][-1], at_the_end, plotted)


@cache
def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in _read("released-accuracies.jsonl").splitlines()[1:]]


def _read(name: str) -> str:
    return (files("metacontrast.experiments") / "data" / name).read_text(encoding="utf-8")
