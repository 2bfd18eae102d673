"""Ways to meta-train, by name: what `train --method` takes.

A method is fields of the configuration and, where MAML's own pieces do not do, the gradient of one task. Tasks,
threads, processes, optimizers, checkpoints, records and evaluation are those of every training. To add one, put a
`Method` into `METHODS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from metacontrast.fields import check_fields
from metacontrast.maml.engine import TaskGradient
from metacontrast.maml.inner import Inner, learned_rates
from metacontrast.methods.contrastive import contrastive
from metacontrast.model.model import Model
from metacontrast.types import Params

__all__ = ["METHODS", "Method", "contrastive"]


@dataclass(frozen=True)
class Method:
    """What sets a way of training apart from MAML.

    Args:
        summary: one line for people.
        needs: by field of the configuration, the values that it may have; it gets the first one unless it has another.
        fields: values of further fields, which may be changed.
        options: fields that no other method has; they are keyword arguments of `gradient`.
        gradient: of one task; None is MAML's.
        start: adds to the starting parameters what else is learned; None adds nothing.
        predicts: the head of a `FewShotClassifier` on its model.
        explains: whether the theory speaks of its inner loop.
    """

    summary: str
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    gradient: TaskGradient | None = None
    start: Callable[[Model, Params, Inner], Params] | None = None
    predicts: Literal["adapted", "prototype", "ridge", "logistic", "auto"] = "adapted"
    explains: bool = True

    __post_init__ = check_fields


METHODS: dict[str, Method] = {
    "maml": Method("gradient steps from a starting point that is learned (Finn et al. 2017)"),
    "protonet": Method(
        "nearest class mean of features that are learned (Snell et al. 2017)",
        needs={"head": ("prototype",), "inner_steps": (0,)},
        fields={"eval_steps": (0,)},
        predicts="prototype",
    ),
    "cosine": Method(
        "nearest class mean by angle, with a temperature that is learned",
        needs={"head": ("cosine",), "inner_steps": (0,)},
        fields={"eval_steps": (0,)},
        predicts="prototype",
    ),
    "ridge": Method(
        "ridge regression on features that are learned, R2D2 (Bertinetto et al. 2019)",
        needs={"head": ("ridge",), "inner_steps": (0,)},
        fields={"eval_steps": (0,)},
        predicts="ridge",
    ),
    "meta-sgd": Method(
        "MAML with an inner learning rate for every parameter, which is learned too (Li et al. 2017)",
        fields={"head": "learned"},
        start=partial(learned_rates, per="parameter", steps=1),
        explains=False,
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
    ),
}
"""All methods by name."""
