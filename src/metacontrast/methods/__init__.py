"""Ways to meta-train, by name: what `train --method` takes.

A method is fields of the configuration and, where MAML's own pieces do not do, the gradient of one task. Tasks,
threads, processes, optimizers, checkpoints, records and evaluation are those of every training. To add one, put a
`Method` into `METHODS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metacontrast.maml.engine import TaskGradient
from metacontrast.methods.contrastive import contrastive

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
        explains: whether the theory speaks of its inner loop.
    """

    summary: str
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    gradient: TaskGradient | None = None
    explains: bool = True


METHODS: dict[str, Method] = {
    "maml": Method("gradient steps from a starting point that is learned (Finn et al. 2017)"),
    "protonet": Method(
        "nearest class mean of features that are learned (Snell et al. 2017)",
        needs={"head": ("prototype",), "inner_steps": (0,)},
        fields={"eval_steps": (0,)},
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
