"""Explanations of a trained run, and of the copies of the model that training kept, in numbers and words."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from metacontrast.data.episodes import EpisodeRows, EpisodeSampler
from metacontrast.diagnostics.gradient import GradientExplanation, explain
from metacontrast.diagnostics.task_view import MAPS
from metacontrast.methods import METHODS
from metacontrast.training.run import TrainedRun
from metacontrast.training.step import ONE_CPU, Resources
from metacontrast.types import Episode


@dataclass(frozen=True, eq=False)
class Findings:
    """Explanations of a run and of its kept copies.

    Args:
        run: the model that is explained.
        tasks: where the tasks come from.
        history: explanations of every kept copy and of the model itself, by number of updates; a single entry
            when nothing was kept.
    """

    run: TrainedRun
    tasks: EpisodeSampler
    history: dict[int, GradientExplanation]

    @property
    def explanation(self) -> GradientExplanation:
        """Explanation of the model itself."""
        return self.history[self.run.updates]

    @property
    def first_task(self) -> EpisodeRows:
        """Task whose coefficients are shown."""
        return self.tasks.rows(0)


def explain_run(
    run: TrainedRun,
    kept: Iterable[TrainedRun],
    tasks: EpisodeSampler,
    count: int,
    resources: Resources = ONE_CPU,
    on_model: Callable[[], object] = lambda: None,
) -> Findings:
    """Explain the model of `run`, and each of its kept copies, on the first `count` tasks.

    Args:
        on_model: called after every model, for a progress bar.
    """
    episodes = tasks.batch(range(count))

    def explained(model: TrainedRun) -> GradientExplanation:
        found = _explain(model, episodes, resources)
        on_model()
        return found

    history = {each.updates: explained(each) for each in kept if each.updates != run.updates}
    history[run.updates] = explained(run)
    return Findings(run, tasks, dict(sorted(history.items())))


def _explain(run: TrainedRun, episodes: Episode, resources: Resources) -> GradientExplanation:
    model, params = run.model.to(resources.device), run.params_on(resources.device)
    return explain(model, params, episodes, run.config.inner(), resources.executor)


def as_json(found: Findings) -> dict[str, Any]:
    """Collect all numbers under plain names; null where one is not defined."""
    explanation, tasks = found.explanation, found.tasks
    return {
        "updates": found.run.updates,
        "data": tasks.images.name,
        "data_digest": tasks.images.digest,
        "ways": tasks.ways,
        "shots": tasks.shots,
        "queries": tasks.queries,
        "seed": tasks.seed,
        "scalars": explanation.scalars(),
        "coefficients": _plain(explanation.coefficients),
        "query_y": explanation.query_y.tolist(),
        "support_y": explanation.support_y.tolist(),
        "similarity": _similarity(explanation),
        "eigenvalues": _plain(explanation.eigenvalues),
        "label_orders": [list(order) for order in explanation.orders],
        "label_order_accuracy": _plain(explanation.order_accuracy),
        "checkpoints": [
            {"updates": updates, **each.scalars(), "similarity": _similarity(each)}
            for updates, each in found.history.items()
        ],
    }


def _similarity(explanation: GradientExplanation) -> dict[str, dict[str, list]]:
    maps = {"before": explanation.before, "after": explanation.after}
    return {when: dict(zip(MAPS, _plain(each), strict=True)) for when, each in maps.items()}


def _plain(values: torch.Tensor) -> list:
    """Convert to nested lists with None for what is not a number."""
    if values.ndim > 1:
        return [_plain(each) for each in values]
    return [None if value != value else round(value, 7) for value in values.tolist()]


class Fact(NamedTuple):
    """A number with its name and what it means."""

    name: str
    value: str
    meaning: str


def headline(found: Findings) -> str:
    """State the outcome in one sentence."""
    if not found.explanation.gradient_norm:
        return _NO_GRADIENT[found.explanation.distance is None]
    share = {name: 100 * part.share for name, part in found.explanation.parts.items()}
    contrastive = share["contrastive_query"] + share["contrastive_support"]
    source = "this task's own class means" if found.run.config.head == "prototype" else "interference"
    curvature = f", {share['head_curvature']:.0f} % is curvature of the head" if share["head_curvature"] else ""
    return (
        f"Measured along the encoder's outer gradient, {contrastive:.0f} % of it is contrastive, "
        f"{share['interference']:.0f} % comes from the head ({source}){curvature} and {share['remainder']:.0f} % lies "
        "outside the theory."
    )


_NO_GRADIENT = {
    False: "The encoder's outer gradient is zero, and so is the theory's.",
    True: "The encoder's outer gradient is zero, but the theory's is not: it has no share in it, and its distance from "
    "it is not defined.",
}


def setting(found: Findings) -> str:
    """Describe the model and the tasks."""
    config, tasks = found.run.config, found.tasks
    trained = "MAML" if config.method == "maml" else config.method
    if METHODS[config.method].gradient is not None:
        trained += " (shown is the gradient that MAML would follow)"
    loop = f"{config.inner_steps} inner steps of size {config.inner_lr:g} that move {_SCOPES[config.inner_scope]}"
    return (
        f"The model: {config.order}-order {trained} after {found.run.updates} updates, head {config.head}"
        f"{' with bias' if config.head_bias else ' without bias'}, {loop if config.inner_steps else 'no inner steps'}; "
        f"{found.explanation.tasks} tasks of {tasks.images.name}, {tasks.ways}-way {tasks.shots}-shot, {tasks.queries} "
        f"queries per class, seed {tasks.seed}."
    )


_SCOPES = {"all": "encoder and head", "head": "the head", "encoder": "the encoder"}


def facts(found: Findings) -> list[Fact]:
    """List every scalar that has a value."""
    scalars = found.explanation.scalars()
    return [
        Fact(name, form.format(value), meaning)
        for key, (name, form, meaning) in _FACTS.items()
        if (value := scalars[key]) is not None
    ]


def findings_text(found: Findings) -> str:
    """Format the summary for a terminal."""
    lines = (f"{fact.name:<44}{fact.value:>10}" for fact in facts(found))
    return "\n".join([headline(found), "", *lines])


_FACTS = {
    "accuracy": ("accuracy after adaptation", "{:.1%}", "Share of query images that the adapted model gets right."),
    "gradient_norm": ("norm of the gradient", "{:.3g}", "Length of the encoder's outer gradient, mean over the tasks."),
    "interference_share": (
        "share of interference",
        "{:.1%}",
        "Part of the gradient that points along the rows of the head that starts a task. Those of a learned head hold "
        "features of earlier tasks, those of a prototype head are this task's own class means. Rows that are equal, as "
        "in a zeroed or a shared head, have none.",
    ),
    "contrastive_query_share": (
        "contrastive share, query side",
        "{:.1%}",
        "Part that moves query features towards or away from support features of the same task.",
    ),
    "contrastive_support_share": (
        "contrastive share, support side",
        "{:.1%}",
        "The same for support features; only second order has it.",
    ),
    "head_curvature_share": (
        "share of the head's curvature",
        "{:.1%}",
        "Second order only: the support outputs depend on the features through the head. With one step it points along "
        "the rows that start a task, like interference, and equal rows have none. Every later step has rows into which "
        "this task's own support features are written; from equal rows on these are all there is, so that it couples "
        "support images with one another and holds nothing of earlier tasks.",
    ),
    "remainder_share": (
        "share outside the theory",
        "{:.1%}",
        "What the theory leaves out: the encoder's own movement in the inner loop, the path through the prototypes of "
        "a prototype head, and a head that stays where it is. The shares sum to 100 % unless the gradient is zero.",
    ),
    "distance": (
        "distance of the theory",
        "{:.1%}",
        "How far the theory, which lets only the head adapt, is from the real gradient, relative to it. 0 % is exact: "
        "so it is when only the head adapts, and with equal rows (a zeroed or a shared head) and one inner step though "
        "the whole network may adapt. With a prototype head it is not, even if only the head adapts: the theory leaves "
        "out the path through the prototypes.",
    ),
    "wrong_sign_share": (
        "coefficients with the wrong sign",
        "{:.1%}",
        "Share of all query-support pairs that are of different classes and yet attract each other. From a zeroed head "
        "and in one inner step there are none.",
    ),
    "head_norm": ("norm of the head", "{:.3g}", "Length of the head that a task starts from, bias included."),
    "head_spread": (
        "spread of the head's rows",
        "{:.3g}",
        "The same of its rows minus their mean row: only this can interfere, for what all rows share changes no "
        "softmax.",
    ),
    "contrast_query_support_before": (
        "contrast query-support, before adaptation",
        "{:.3f}",
        "Mean cosine similarity within a class minus that between classes.",
    ),
    "contrast_query_support_after": ("contrast query-support, after adaptation", "{:.3f}", "The same after it."),
    "contrast_query_query_before": (
        "contrast query-query, before adaptation",
        "{:.3f}",
        "The same among query images, without comparing an image to itself.",
    ),
    "contrast_query_query_after": ("contrast query-query, after adaptation", "{:.3f}", "The same after it."),
    "contrast_support_support_before": (
        "contrast support-support, before adaptation",
        "{:.3f}",
        "The same among support images; it needs two of each class.",
    ),
    "contrast_support_support_after": ("contrast support-support, after adaptation", "{:.3f}", "The same after it."),
    "smallest_eigenvalue": (
        "smallest eigenvalue of I − ηH",
        "{:.3g}",
        "Below 0 the inner learning rate overshoots: second order turns the head's step round in that direction, and "
        "below −1 it also lengthens it.",
    ),
    "condition_number": (
        "condition number of I − ηH",
        "{:.3g}",
        "Largest over smallest size of its eigenvalues, median over tasks and classes: how unevenly it treats "
        "directions.",
    ),
    "label_order_spread": (
        "sensitivity to the order of labels",
        "{:.1%}",
        "Best minus worst accuracy on the same task when its classes swap names, mean over tasks. A zeroed head has 0, "
        "for it has no row that a class could prefer, save for ties (of equal outputs the first class wins). So have a "
        "shared and a prototype head, but for rounding.",
    ),
}
