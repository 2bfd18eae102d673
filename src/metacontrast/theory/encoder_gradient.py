"""The outer gradient of the encoder, split like the error signals at its features.

The features' Jacobian pulls back each part that `metacontrast.theory.decomposition` finds (Section 2.3):

    ∂L/∂ϕ = Σ_q ∂φ(q)/∂ϕᵀ ∂L/∂φ(q) + Σ_s ∂φ(s)/∂ϕᵀ ∂L/∂φ(s)

The gradient is linear in the loss, so a batch of tasks has the mean of its tasks' parts.

Reference: Kao, Chiu and Chen, ICLR 2022, Sections 2.3 and C.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.theory.decomposition import split_feature_gradient
from metacontrast.theory.task import FeatureTask
from metacontrast.types import Episode, Inner, Params

Tensors = dict[str, Tensor]


class EncoderGradient(NamedTuple):
    """The four parts as gradients of the encoder's tensors, by name."""

    interference: Tensors
    contrastive_query: Tensors
    contrastive_support: Tensors
    head_curvature: Tensors

    @property
    def total(self) -> Tensors:
        """MAML's gradient of the encoder."""
        return {name: sum((part[name] for part in self[1:]), self[0][name]) for name in self[0]}


def split_encoder_gradient(
    features: Callable[[Tensors, Tensor], Tensor],
    params: Params,
    episode: Episode,
    inner: Inner,
    *,
    query_features: Callable[[Tensors, Tensor, Tensor], Tensor] | None = None,
) -> EncoderGradient:
    """Split the encoder's outer gradient into four parts: each error signal, pulled back through the features.

    `total` is the gradient of head-only MAML, whatever the encoder.

    Args:
        features: `features(encoder, images)` gives `(image, feature)`. Support and query images go through it in two
            calls, so that each has its own batch statistics.
        params: encoder and head w^0.
        episode: one task; average those of several by `mean_split`.
        inner: steps, step size and order of the inner loop, which moves the head only.
        query_features: `query_features(encoder, support_x, query_x)`, for query features that look at the support
            images too, as under statistics of the support set.
    """
    if episode.support_y.ndim != 1:
        raise InputError(f"support labels {tuple(episode.support_y.shape)}: split one task at a time, then average")
    encoder, task = feature_graph(features, params, episode, query_features)
    parts = split_feature_gradient(task, inner)
    outputs = task.query, task.query, task.support, task.support
    return EncoderGradient(*(pull_back(f, encoder, signal) for f, signal in zip(outputs, parts, strict=True)))


def feature_graph(
    features: Callable[[Tensors, Tensor], Tensor],
    params: Params,
    episode: Episode,
    query_features: Callable[[Tensors, Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensors, FeatureTask]:
    """The encoder as leaves of a graph, and the task whose features are functions of them; arguments as above."""
    encoder = {name: tensor.detach().requires_grad_() for name, tensor in params.encoder.items()}
    with torch.enable_grad():
        support = features(encoder, episode.support_x)
        if query_features is None:
            query = features(encoder, episode.query_x)
        else:
            query = query_features(encoder, episode.support_x, episode.query_x)
    return encoder, FeatureTask(support, episode.support_y, query, episode.query_y, params.head)


def pull_back(features: Tensor, encoder: Tensors, signal: Tensor) -> Tensors:
    """The gradient of the encoder that an error signal at its features makes."""
    grads = torch.autograd.grad(
        features, list(encoder.values()), signal, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(encoder, grads, strict=True))


def mean_split(splits: Sequence[EncoderGradient]) -> EncoderGradient:
    """Average the splits of several tasks, part by part: the split of the batch of them."""
    if not splits:
        raise InputError("no tasks to average: give one split or more")
    return EncoderGradient(
        *(
            {name: torch.stack([p[name] for p in part]).mean(0) for name in part[0]}
            for part in zip(*splits, strict=True)
        )
    )
