"""Ways to meta-train, by name: what `train --method` takes.

A method is fields of the configuration and, where MAML's own pieces do not do, the gradient of one task. Tasks,
threads, processes, optimizers, checkpoints, records and evaluation are those of every training. To add one, put a
`Method` into `METHODS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from metacontrast.fields import check_fields
from metacontrast.maml.engine import TaskGradient
from metacontrast.maml.inner import learned_rates
from metacontrast.maml.outer import loss_gradient
from metacontrast.methods.batches import base_classifier, supcon, supervised
from metacontrast.methods.conml import conml
from metacontrast.methods.contrastive import contrastive
from metacontrast.methods.first_order import imaml, proximal, reptile
from metacontrast.methods.mamlpp import annealed, rates_and_norms
from metacontrast.model.head import HeadKind
from metacontrast.model.model import Model
from metacontrast.types import Inner, Params

__all__ = [
    "METHODS",
    "Method",
    "annealed",
    "base_classifier",
    "conml",
    "contrastive",
    "imaml",
    "loss_gradient",
    "proximal",
    "rates_and_norms",
    "reptile",
    "supcon",
    "supervised",
]


@dataclass(frozen=True)
class Method:
    """What sets a way of training apart from MAML.

    Args:
        summary: one line for people.
        needs: by field of the configuration, the values that it may have; it gets the first one unless it has another.
        ignores: fields of the inner loop that it does not follow.
        least_steps: fewest steps of its inner loop.
        fields: values of further fields, which may be changed.
        options: fields that no other method has; they are keyword arguments of `gradient` and `inner`.
        gradient: of one task; None is MAML's.
        tasks_at_once: how many tasks `gradient` takes together, stacked along a leading axis, to return the sum of
            their gradients. 1 has no such axis.
        inner: the inner loop, from that of the configuration, the share of all updates that are done, and the options;
            None leaves it as it is.
        start: adds to the starting parameters what else is learned, given a generator and the number of training
            classes; None adds nothing.
        batches: whether an update has class-balanced batches of images in place of tasks, each as large as a task.
        predicts: the head of a `FewShotClassifier` on its model.
        anneals: whether `inner` changes during training, which then depends on the number of updates.
        explains: whether the theory speaks of its inner loop.
        cost: how many images of a task pass forwards and backwards in an update of first order, given the number of
            inner steps, of support images and of query images.
    """

    summary: str
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    ignores: tuple[str, ...] = ()
    least_steps: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    gradient: TaskGradient | None = None
    tasks_at_once: int = 1
    inner: Callable[..., Inner] | None = None
    start: Callable[[Model, Params, Inner, torch.Generator, int], Params] | None = None
    batches: bool = False
    predicts: Literal["adapted", "prototype", "ridge", "logistic", "auto"] = "adapted"
    anneals: bool = False
    explains: bool = True
    cost: Callable[[int, int, int], int] = lambda steps, support, query: steps * support + query

    __post_init__ = check_fields


def _images_once(steps: int, support: int, query: int) -> int:
    """Count every image of a task once, as where there is no inner loop."""
    return support + query


def _without_inner_loop(summary: str, head: HeadKind, **options: Any) -> Method:
    """A method whose `head` answers without inner steps."""
    needs = {"head": (head,), "inner_steps": (0,), **options.pop("needs", {})}
    return Method(summary, needs=needs, fields={"eval_steps": (0,)}, cost=_images_once, **options)


def _of_batches(summary: str, head: HeadKind, gradient: TaskGradient, is_classifier: bool) -> Method:
    """A control that is trained without tasks, and answers at test by the class means under `head`."""
    plain = {"labels": "fresh", "pool_size": None, "relabel": False}
    plain |= {"least_ways": None, "least_shots": None, "unequal_shots": False}
    return _without_inner_loop(
        summary,
        head,
        needs={"inner_loss": ("cross_entropy",), **{name: (value,) for name, value in plain.items()}},
        gradient=gradient,
        start=(lambda model, params, inner, *drawn: base_classifier(model, params, *drawn)) if is_classifier else None,
        batches=True,
        predicts="auto",
    )


METHODS: dict[str, Method] = {
    "maml": Method("gradient steps from a starting point that is learned (Finn et al. 2017)"),
    "protonet": _without_inner_loop(
        "nearest class mean of learned features (Snell et al. 2017)", "prototype", predicts="prototype"
    ),
    "cosine": _without_inner_loop(
        "nearest class mean by angle, with a learned temperature", "cosine", predicts="prototype"
    ),
    "ridge": _without_inner_loop(
        "ridge regression on learned features, R2D2 (Bertinetto et al. 2019)", "ridge", predicts="ridge"
    ),
    "meta-sgd": Method(
        "MAML with a learned inner learning rate per parameter (Li et al. 2017)",
        fields={"head": "learned"},
        least_steps=1,
        start=lambda model, params, inner, *_: learned_rates(model, params, inner, per="parameter", steps=1),
        explains=False,
    ),
    "maml++": Method(
        "MAML with learned rates and norms per step, multi-step loss, first then second order (Antoniou et al. 2019)",
        needs={"inner_scope": ("all",)},
        least_steps=1,
        fields={"head": "learned", "order": "second", "lr_schedule": "cosine"},
        inner=annealed,
        start=lambda model, params, inner, *_: rates_and_norms(model, params, inner),
        anneals=True,
        explains=False,
    ),
    "reptile": Method(
        "the way of an inner loop on all images of a task (Nichol et al. 2018)",
        needs={"head": ("learned", "zeroed"), "inner_scope": ("all", "encoder")},
        ignores=("order",),
        least_steps=1,
        fields={"head": "learned", "optimizer": "sgd", "outer_lr": 1.0, "lr_schedule": "cosine"},
        gradient=reptile,
        cost=_images_once,
    ),
    "imaml": Method(
        "the implicit gradient at the end of an inner loop that is pulled back to its start (Rajeswaran et al. 2019)",
        needs={"head": ("learned", "zeroed"), "inner_scope": ("all",)},
        ignores=("order",),
        least_steps=1,
        fields={"head": "learned", "inner_steps": 16, "eval_steps": (16,)},
        options=("penalty", "cg_steps"),
        gradient=imaml,
        inner=lambda inner, share, penalty, cg_steps: proximal(inner, penalty),
        explains=False,
    ),
    "conml": Method(
        "MAML whose adapted models are contrasted, within a task and between tasks (Wu et al. 2024)",
        needs={"order": ("second",), "head": ("learned", "zeroed")},
        least_steps=1,
        options=("contrast_weight",),
        gradient=conml,
        tasks_at_once=2,
        cost=lambda steps, support, query: 2 * steps * support + (steps + 1) * query,
    ),
    "contrastive": Method(
        "the loss without an inner loop that equals MAML where only the head adapts (Kao et al. 2022)",
        needs={
            "inner_scope": ("head",),
            "head": ("learned", "zeroed"),
            "inner_loss": ("cross_entropy",),
            "precision": ("float32",),
        },
        options=("drop_interference", "drop_noise"),
        gradient=contrastive,
        cost=_images_once,
    ),
    "supervised": _of_batches(
        "cross entropy on all training classes, then class means (Baseline, Chen et al. 2019)",
        "prototype",
        supervised,
        is_classifier=True,
    ),
    "supervised-cosine": _of_batches(
        "the same by angle (Baseline++, Chen et al. 2019)", "cosine", supervised, is_classifier=True
    ),
    "supcon": _of_batches(
        "supervised contrastive loss on all training classes (Khosla et al. 2020)",
        "cosine",
        supcon,
        is_classifier=False,
    ),
}
"""All methods by name."""
