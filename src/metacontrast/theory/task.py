"""One task as its linear head sees it: features, labels, head.

A bias is a weight on a feature that is always 1. With φ̃(x) = (φ(x), 1) and w̃_k = (w_k, b_k)

    w_kᵀφ(x) + b_k = w̃_kᵀφ̃(x)        φ̃(s)ᵀφ̃(q) = φ(s)ᵀφ(q) + 1

so the equations of the paper, which has no bias, hold word for word for φ̃ and w̃. The error signal at φ is
the one at φ̃ without its last entry. The theory therefore computes in these coordinates and knows of no
bias.

Shapes are checked everywhere, values on the CPU alone: on a GPU that would make the host wait for every task. There
PyTorch refuses a label out of range, and what is not finite stays visible in the result.
"""

import math
from numbers import Integral
from typing import NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from metacontrast.errors import InputError, check_choice
from metacontrast.types import Head, Order


class FeatureTask(NamedTuple):
    """Features φ̃, labels and head w̃ of one task, checked."""

    support: Float[Tensor, "support feature"]
    support_y: Int[Tensor, " support"]
    query: Float[Tensor, "query feature"]
    query_y: Int[Tensor, " query"]
    head: Float[Tensor, "way feature"]


def feature_task(support_features: Tensor, support_y: Tensor, query_features: Tensor, query_y: Tensor, head: Head):
    """The task in coordinates without a bias; says what is wrong with it if it is none."""
    check_head(support_features, support_y, head)
    check_samples("query", query_features, query_y, len(head.weight))
    if query_features.shape[1] != support_features.shape[1]:
        raise InputError(
            f"support has {support_features.shape[1]} features and query {query_features.shape[1]}: "
            "take both from the same encoder"
        )
    return FeatureTask(
        append_constant(support_features, head),
        support_y,
        append_constant(query_features, head),
        query_y,
        merge_bias(head),
    )


def append_constant(features: Float[Tensor, "image feature"], head: Head) -> Float[Tensor, "image extended"]:
    """φ̃: the features and, where the head has a bias, a 1."""
    if head.bias is None:
        return features
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)


def merge_bias(head: Head) -> Float[Tensor, "way extended"]:
    """w̃: weight and bias in one matrix."""
    return head.weight if head.bias is None else torch.cat([head.weight, head.bias[:, None]], dim=1)


def split_bias(joint_head: Float[Tensor, "way extended"], like: Head) -> Head:
    """The inverse of `joint`."""
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
    """Features or probabilities `(sample, ...)` with one label each."""
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
    """A support set of two classes or more, and a head that fits its features."""
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


def check_inner(inner_lr: float, inner_steps: int, order: str = "first") -> None:
    """What an inner loop needs to be defined."""
    if not math.isfinite(inner_lr):
        raise InputError(f"inner_lr={inner_lr}: give a finite step size")
    if not isinstance(inner_steps, Integral) or inner_steps < 1:
        raise InputError(f"inner_steps={inner_steps}: give a whole number, 1 or more")
    check_choice("order", order, get_args(Order))
