"""Methods compared at one budget: of images, with models selected by validation, and of core-time.

Every method sees the same number of images. The time of an update is measured with the run, so that accuracy can also
be compared after the core-time of the cheapest method's whole training. The rank correlation tells whether methods are
in the same order under two ways to classify their features: if it is near 1, training and adaptation can be chosen
independently.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

from metacontrast.experiments.claims import Accuracy, Endpoint, Quantity, Solved, TaskKind
from metacontrast.experiments.measurement import Table
from metacontrast.experiments.rows import percent
from metacontrast.experiments.spec import AuthorsTest, Curve

OWN = Accuracy("kept", None)
"""The method's own answer: from its own head, with the number of inner steps of its training."""
SELECTED = Accuracy("kept", None, is_selected=True)
ANSWERS: dict[str, Quantity] = {
    "own head": SELECTED,
    "nearest mean": Solved("nearest-mean", is_selected=True),
    "nearest cosine": Solved("nearest-cosine", is_selected=True),
    "ridge": Solved("ridge", is_selected=True),
    "logistic": Solved("logistic", is_selected=True),
    "1 step from zeros": Accuracy("zeroed", 1, is_selected=True),
    "5 steps from zeros": Accuracy("zeroed", 5, is_selected=True),
}
"""How a trained encoder classifies at test, by column."""
HEAD = ("", "core-seconds an update", *ANSWERS, "own head at equal core-time")


def stage_of(kind: TaskKind, curves: Sequence[str], quantity: Quantity, table: Table) -> int:
    """Find the last update at which the quantity was measured of all curves that have it; 0 where none has."""
    endpoints = [each for name in curves if table.has(kind, each := Endpoint(name, quantity))]
    found = table.stage(kind, endpoints, "end") if endpoints else None
    return 0 if found is None else found[0]


def _at_stage(kind: TaskKind, curves: Sequence[str], quantity: Quantity, table: Table) -> list[float | None]:
    """Average the quantity of every curve over its seeds at their common stage; None where it was not measured."""
    update = stage_of(kind, curves, quantity, table)
    return [table.means(kind, curve, quantity).get(update) for curve in curves]


def budget_rows(curves: Sequence[Curve], table: Table) -> list[Sequence[str]]:
    """A row for each curve: accuracies in per cent of the chosen model, and of its own head at equal core-time."""
    kind, names = curves[0].kind, [curve.name for curve in curves]
    taken = [table.core_seconds(kind, name) for name in names]
    chosen = zip(*(_at_stage(kind, names, quantity, table) for quantity in ANSWERS.values()), strict=True)
    budget = stage_of(kind, names, OWN, table) * min((seconds for seconds in taken if seconds), default=0.0)
    rows = []
    for name, seconds, values in zip(names, taken, chosen, strict=True):
        own = table.means(kind, name, OWN)
        reached = [update for update in own if seconds and update * seconds <= budget * 1.000001]
        timed = own[max(reached)] if reached else None
        rows.append((name, "—" if seconds is None else f"{seconds:.3g}", *map(_cell, (*values, timed))))
    return rows


def _cell(value: float | None) -> str:
    return "—" if value is None else percent(value)


def answers_of(test: AuthorsTest) -> dict[str, Quantity]:
    """How the authors' models classify in a test, by column; inner steps start from zeros."""
    found: dict[str, Quantity] = {solver.replace("-", " "): Solved(solver) for solver in test.solvers}
    return found | {f"{n} step{'s' * (n > 1)} from zeros": Accuracy("zeroed", n) for n in test.steps}


def answer_rows(test: AuthorsTest, table: Table) -> list[Sequence[str]]:
    """A row for each of the authors' ways of training: accuracies in per cent under all `answers_of` the test."""
    found = [_at_stage(test.kind, [*test.curves], quantity, table) for quantity in answers_of(test).values()]
    rows = zip(test.curves, zip(*found, strict=True), strict=True)
    return [(name, *map(_cell, values)) for name, values in rows if None not in values]


def rank_correlations(
    kind: TaskKind, curves: Sequence[str], table: Table, answers: Mapping[str, Quantity]
) -> list[Sequence[str]]:
    """Spearman's rank correlation of the curves under every two of the `answers`."""
    from scipy.stats import spearmanr  # takes half a second, which no other command should wait for

    measured = {name: _at_stage(kind, curves, quantity, table) for name, quantity in answers.items()}
    found = {name: values for name, values in measured.items() if curves and None not in values}
    return [
        (one, other, f"{spearmanr(found[one], found[other])[0]:+.2f}".replace("-", "−"))
        for one, other in combinations(found, 2)
        if len(set(found[one])) > 1 and len(set(found[other])) > 1
    ]
