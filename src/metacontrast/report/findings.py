"""Explanations of a trained run, and of the copies of the model that training kept, in numbers and words."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from metacontrast.data.episodes import EpisodeSampler
from metacontrast.diagnostics.gradient import GradientExplanation, explain
from metacontrast.diagnostics.task_view import MAPS, answers_at_once
from metacontrast.errors import InputError
from metacontrast.methods import METHODS
from metacontrast.model.head import BUILT_HEADS
from metacontrast.training.run import TrainedRun
from metacontrast.training.step import ONE_CPU, Resources


@dataclass(frozen=True, eq=False)
class Findings:
    """Explanations of a run and of its kept copies.

    Args:
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
    def answers_at_once(self) -> bool:
        """Whether the model's head is built from the support set and answers without inner steps."""
        return answers_at_once(self.run.model, self.run.config.inner())


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

    Raises:
        InputError: the theory does not cover the method that trained the model.
    """
    if not METHODS[method := run.config.method].explains:
        raise InputError(f"the theory is that of one rate and plain gradient steps, not of method={method}")
    episodes, device, history = tasks.batch(range(count)), resources.device, {}
    for each in chain((copy for copy in kept if copy.updates != run.updates), [run]):
        model, params = each.model.to(device), each.params_on(device)
        history[each.updates] = explain(model, params, episodes, each.config.inner(), resources.executor)
        on_model()
    return Findings(run, tasks, dict(sorted(history.items())))


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


def headline(found: Findings) -> str:
    """State the outcome in one sentence."""
    if not found.explanation.gradient_norm:
        return _NO_GRADIENT[found.explanation.distance is None]
    share = {name: 100 * part.share for name, part in found.explanation.parts.items()}
    contrastive = round(share["contrastive_query"] + share["contrastive_support"])
    source = "built from this task's own features" if found.run.config.head in BUILT_HEADS else "interference"
    curvature = f", {round(share['head_curvature'])} % is curvature of the head" if share["head_curvature"] else ""
    return (
        f"Measured along the encoder's outer gradient, {contrastive} % of it is contrastive, "
        f"{round(share['interference'])} % comes from the head ({source}){curvature} and {round(share['remainder'])} % "
        "is the residual, which the theory does not cover."
    )


_NO_GRADIENT = {
    False: "The encoder's outer gradient is zero, and so is the theory's.",
    True: "The encoder's outer gradient is zero, but the theory's is not, so that shares and distance are undefined.",
}


def setting(found: Findings) -> str:
    """Describe the model and the tasks."""
    config, tasks = found.run.config, found.tasks
    trained = "MAML" if config.method == "maml" else config.method
    if METHODS[config.method].gradient is not None:
        trained += " (shown is the gradient of training on tasks with this head and inner loop)"
    loop = f"{config.inner_steps} inner steps of size {config.inner_lr:g} that move {_SCOPES[config.inner_scope]}"
    order = f"{config.order}-order " if config.inner_steps else ""
    return (
        f"The model: {order}{trained} after {found.run.updates} updates, head {config.head}"
        f"{' with bias' if config.head_bias else ' without bias'}, {loop if config.inner_steps else 'no inner steps'}; "
        f"{found.explanation.tasks} tasks of {tasks.images.name}, {tasks.ways}-way {tasks.shots}-shot, {tasks.queries} "
        f"queries per class, seed {tasks.seed}."
    )


_SCOPES = {"all": "encoder and head", "head": "the head", "encoder": "the encoder"}


def facts(found: Findings) -> list[tuple[str, str, str]]:
    """List every scalar that has a value: its name, the value and what it means."""
    scalars = found.explanation.scalars()
    other = _WITHOUT_STEPS if found.answers_at_once else {}
    return [
        (name, form.format(value), other.get(key, meaning))
        for key, (name, form, meaning) in _FACTS.items()
        if (value := scalars[key]) is not None and other.get(key, meaning)
    ]


def findings_text(found: Findings) -> str:
    """Format the summary for a terminal."""
    lines = (f"{name:<44}{value:>10}" for name, value, _ in facts(found))
    return "\n".join([headline(found), "", *lines])


_FACTS = {
    "accuracy": (
        "accuracy after adaptation",
        "{:.1%}",
        "Share of query images that the adapted model classifies correctly.",
    ),
    "gradient_norm": ("norm of the gradient", "{:.3g}", "Length of the encoder's outer gradient, mean over the tasks."),
    "interference_share": (
        "share of interference",
        "{:.1%}",
        "Part of the gradient along the rows of the initial head of a task. Rows of a learned head contain features of "
        "earlier tasks, those of a head that is built from the support set are made of this task's own features. It is "
        "zero if all rows are equal, as in a zeroed or a shared head.",
    ),
    "contrastive_query_share": (
        "contrastive share, query side",
        "{:.1%}",
        "Part that moves query features towards or away from support features of the same task.",
    ),
    "contrastive_support_share": (
        "contrastive share, support side",
        "{:.1%}",
        "The same for support features; second order only.",
    ),
    "head_curvature_share": (
        "share of the head's curvature",
        "{:.1%}",
        "Second order only: the support outputs depend on the features through the head. With one step this part lies "
        "along the rows of the initial head, like interference, and is zero for equal rows. In later steps the rows "
        "also contain this task's own support features; from equal rows they contain nothing else, so that it couples "
        "support images with one another and contains nothing of earlier tasks.",
    ),
    "remainder_share": (
        "residual share",
        "{:.1%}",
        "What the theory does not cover: adaptation of the encoder in the inner loop, the gradient through a head that "
        "is built from the support set, and a head that is not adapted. The shares sum to 100 % unless the gradient "
        "is zero.",
    ),
    "distance": (
        "distance of the theory",
        "{:.1%}",
        "Norm of the difference between the gradient and the theory, in which only the head adapts, relative to the "
        "gradient. 0 % is exact: if only the head adapts, and with equal rows (a zeroed or a shared head) and one "
        "inner step even if the whole network adapts. It is not exact for a head that is built from the support set "
        "and then adapted: the theory leaves out the gradient through the building.",
    ),
    "wrong_sign_share": (
        "coefficients with the wrong sign",
        "{:.1%}",
        "Share of all query-support pairs that the gradient moves the wrong way: those of different classes that "
        "attract each other, and those of one class that repel each other, which only a ridge head has. There are none "
        "from a zeroed head with one inner step.",
    ),
    "head_norm": ("norm of the head", "{:.3g}", "Norm of the initial head of a task, bias included."),
    "head_spread": (
        "spread of the head's rows",
        "{:.3g}",
        "The same of its rows minus their mean row: only this part can interfere, because adding a vector to all rows "
        "changes no softmax.",
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
        "Below 0 the inner learning rate overshoots: second order reverses the head's step in that direction, and "
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
        "Best minus worst accuracy on the same task over permutations of its labels, mean over tasks. It is 0 for a "
        "zeroed head, except for ties (the first of equal outputs wins), and for a shared and a prototype head, except "
        "for rounding.",
    ),
}

_WITHOUT_STEPS = {
    "interference_share": "Part of the gradient along the rows of a head from before the task: zero, because this head "
    "is built from the task's own support set.",
    "contrastive_support_share": "The same for support features, from which the head is built.",
    "head_curvature_share": "A ridge head solves a system of the support features' inner products: this is the part "
    "that reaches the features through that system. Class means have none.",
    "remainder_share": "What the theory does not cover. The shares sum to 100 % unless the gradient is zero.",
    "distance": "Norm of the difference between the gradient and the theory, relative to the gradient. 0 % is exact, "
    "which the theory is, up to rounding, for a head that is built from the support set.",
    "smallest_eigenvalue": "",
    "condition_number": "",
}
"""What the numbers mean, or that they mean nothing, where the head answers without inner steps."""
