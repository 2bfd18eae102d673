"""One task as its linear head sees it: features, labels, head.

A bias is a weight on a feature that is always 1. With φ̃(x) = (φ(x), 1) and w̃_k = (w_k, b_k)

    w_kᵀφ(x) + b_k = w̃_kᵀφ̃(x)        φ̃(s)ᵀφ̃(q) = φ(s)ᵀφ(q) + 1

so the equations of the paper, which has no bias, hold for φ̃ and w̃ as they stand. The error signal at φ is the one at
φ̃ without its last entry. The theory therefore computes in these coordinates, without a bias.

Shapes are checked everywhere, values on the CPU alone: on a GPU that would make the host wait for every task. There
PyTorch refuses a label out of range, and what is not finite stays visible in the result.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from metacontrast.errors import InputError
from metacontrast.types import Head, Inner, name_shapes


class FeatureTask(NamedTuple):
    """One task as its linear head sees it.

    Args:
        support, query: features φ(s), φ(q) under the meta-learned encoder, with or without their graph.
        support_y, query_y: labels t, u in [0, ways); two classes or more in the support set.
        head: w^0, one row per class, with or without a bias.
    """

    support: Float[Tensor, "support feature"]
    support_y: Int[Tensor, " support"]
    query: Float[Tensor, "query feature"]
    query_y: Int[Tensor, " query"]
    head: Head

    def __repr__(self) -> str:
        """The shapes."""
        tensors = self._asdict() | {"head": self.head.weight}
        return f"FeatureTask({name_shapes(**tensors)})"


def check_task(task: FeatureTask, inner: Inner, loss: str = "cross_entropy") -> None:
    """Raise `InputError` for a task or an inner loop that the theory does not describe.

    `inner.scope` is not asked: the theory moves the head alone, and tells what that has to do with other scopes.
    """
    check_inner(inner, loss)
    check_head(task.support, task.support_y, task.head)
    check_samples("query", task.query, task.query_y, len(task.head.weight))
    if task.query.shape[1] != task.support.shape[1]:
        raise InputError(
            f"support has {task.support.shape[1]} features and query {task.query.shape[1]}: "
            "take both from the same encoder"
        )


def check_inner(inner: Inner, loss: str = "cross_entropy", least: int = 1) -> None:
    """Raise `InputError` for an inner loop that is not `least` or more steps of gradient descent on that loss."""
    if inner.steps < least:
        raise InputError(f"inner steps={inner.steps}, but the theory is that of {least} step or more")
    if inner.loss != loss:
        found = "a loss of your own" if callable(inner.loss) else f"loss='{inner.loss}'"
        raise InputError(f"the theory is that of loss='{loss}', but this inner loop has {found}")
    if not inner.is_plain:
        raise InputError(
            "the theory is that of one loss and plain gradient descent: give an inner loop without query_loss, "
            "loss_weights and direction"
        )


def append_constant(features: Float[Tensor, "image feature"], head: Head) -> Float[Tensor, "image extended"]:
    """φ̃: the features and, where the head has a bias, a final 1."""
    if head.bias is None:
        return features
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)


def merge_bias(head: Head) -> Float[Tensor, "way extended"]:
    """w̃: weight and bias in one matrix."""
    return head.weight if head.bias is None else torch.cat([head.weight, head.bias[:, None]], dim=1)


def split_bias(joint_head: Float[Tensor, "way extended"], like: Head) -> Head:
    """Weight and bias from one matrix, the inverse of `merge_bias`.

    Args:
        like: a head that has a bias, or has none.
    """
    return Head(joint_head, None) if like.bias is None else Head(joint_head[:, :-1], joint_head[:, -1])


def strip_constant(signal: Float[Tensor, "image extended"], head: Head) -> Float[Tensor, "image feature"]:
    """The error signal at φ from the one at φ̃."""
    return signal if head.bias is None else signal[:, :-1]


def targets(y: Int[Tensor, " image"], like: Float[Tensor, "*rows way"]) -> Float[Tensor, "image way"]:
    """1{k=y} as a matrix, with as many columns as `like` has and of its dtype."""
    return one_hot(y.long(), like.shape[-1]).to(like.dtype)


def same_class(query_y: Int[Tensor, " query"], support_y: Int[Tensor, " support"]) -> Bool[Tensor, "query support"]:
    """1{t=u} for every pair."""
    return query_y[:, None] == support_y[None, :]


def check_samples(name: str, features: Tensor, y: Tensor, ways: int) -> None:
    """Raise `InputError` unless these are features or probabilities `(sample, ...)` with one label each."""
    if features.ndim != 2 or y.ndim != 1 or len(features) != len(y) or not len(y):
        raise InputError(
            f"{name}: values {tuple(features.shape)} and labels {tuple(y.shape)} do not fit together: "
            "give (sample, feature) and one label per sample"
        )
    if features.is_cpu and (count := int((~torch.isfinite(features)).any(1).sum())):
        raise InputError(f"{name}: {count} of {len(y)} rows are not finite: lower the learning rate or fix the images")
    if y.is_cpu and (int(y.min()) < 0 or int(y.max()) >= ways):
        raise InputError(
            f"{name}: labels run from {int(y.min())} to {int(y.max())}, but {ways} classes have labels 0 to {ways - 1}"
        )


def check_head(features: Tensor, y: Tensor, head: Head) -> None:
    """Raise `InputError` unless the support set has two classes or more and the head fits its features."""
    check_samples("support", features, y, len(head.weight))
    if y.is_cpu and len(y.unique()) < 2:
        raise InputError(
            f"support: all {len(y)} samples are of class {int(y[0])}: a contrast needs two classes or more"
        )
    if head.weight.ndim != 2 or head.weight.shape[1] != features.shape[1]:
        raise InputError(
            f"head weight {tuple(head.weight.shape)} does not fit {features.shape[1]} features: "
            "it must be (way, feature)"
        )
    if head.bias is not None and head.bias.shape != head.weight.shape[:1]:
        raise InputError(f"head bias {tuple(head.bias.shape)} does not fit {len(head.weight)} classes: one per class")
