"""Methods compared at one budget: of images, with models selected by validation, and of core-time.

Every method sees the same number of images. The time of an update is measured with the run, so that accuracy can also
be compared after the core-time of the cheapest method's whole training. The rank correlation tells whether methods are
in the same order under two ways to classify their features: if it is near 1, training and adaptation can be chosen
independently.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

from metacontrast.experiments.claims import Accuracy, Quantity, Solved, TaskKind
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


def budget_rows(curves: Sequence[Curve], table: Table) -> list[Sequence[str]]:
    """A row for each curve: accuracies in per cent of the chosen model, and of its own head at equal core-time."""
    taken = {curve.name: table.core_seconds(curve.kind, curve.name) for curve in curves}
    spent = [s * max(table.means(curve.kind, curve.name, OWN)) for curve in curves if (s := taken[curve.name])]
    budget = min(spent, default=0.0)
    return [_row(curve, taken[curve.name], budget, table) for curve in curves]


def _row(curve: Curve, taken: float | None, budget: float, table: Table) -> Sequence[str]:
    chosen = [table.means(curve.kind, curve.name, quantity) for quantity in ANSWERS.values()]
    cells = [percent(values[max(values)]) if values else "—" for values in chosen]
    own = table.means(curve.kind, curve.name, OWN)
    reached = {update: value for update, value in own.items() if taken and update * taken <= budget * 1.000001}
    timed = percent(reached[max(reached)]) if reached else "—"
    return (curve.name, "—" if taken is None else f"{taken:.3g}", *cells, timed)


def answers_of(test: AuthorsTest) -> dict[str, Quantity]:
    """How the authors' models classify in a test, by column; inner steps start from zeros."""
    found: dict[str, Quantity] = {solver.replace("-", " "): Solved(solver) for solver in test.solvers}
    return found | {f"{n} step{'s' * (n > 1)} from zeros": Accuracy("zeroed", n) for n in test.steps}


def answer_rows(test: AuthorsTest, table: Table) -> list[Sequence[str]]:
    """A row for each of the authors' ways of training: accuracies in per cent under all `answers_of` the test."""
    answers = answers_of(test).values()
    found = {name: [table.means(test.kind, name, quantity) for quantity in answers] for name in test.curves}
    return [(name, *(percent(each[max(each)]) for each in values)) for name, values in found.items() if all(values)]


def rank_correlations(
    kind: TaskKind, curves: Sequence[str], table: Table, answers: Mapping[str, Quantity]
) -> list[Sequence[str]]:
    """Spearman's rank correlation of the curves under every two of the `answers`."""
    from scipy.stats import spearmanr  # takes half a second, which no other command should wait for

    found = {}
    for name, quantity in answers.items():
        values = [table.means(kind, curve, quantity) for curve in curves]
        if curves and all(values):
            found[name] = [each[max(each)] for each in values]
    return [
        (one, other, f"{spearmanr(found[one], found[other])[0]:+.2f}".replace("-", "−"))
        for one, other in combinations(found, 2)
        if len(set(found[one])) > 1 and len(set(found[other])) > 1
    ]
