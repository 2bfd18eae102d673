"""The outer gradient of MAML, split: interference, contrast, and the curvature of the head.

The encoder stands still in the inner loop. L is the mean cross entropy of the adapted head w^N over the
query set. Then

    ∂L/∂φ(q) = 1/|Q| Σ_j (q_j - 1{j=u}) w_j^0                        interference             Eq. 6, 12, 21
             + η/(|S||Q|) Σ_s c(q, s) φ(s)                           contrastive, query side
    ∂L/∂φ(s) = η/|S| Σ_p Σ_k (1{k=t} - s_k^{p-1}) λ_k^p              contrastive, support side
             - η/|S| Σ_p Σ_k r_k^p(s) w_k^{p-1}                      head curvature

First order keeps ∂L/∂φ(q) alone. λ^p = ∂L/∂w^p and r^p are those of `metacontrast.theory.task`. With
one step, λ^1 = g is the query features' own sum, and the support side reads

    η/(|S||Q|) Σ_q c(q, s) φ(q)        and        δ(s) = -η/|S| Σ_k (g_kᵀφ(s)) s_k (w_k^0 - Σ_j s_j w_j^0)

The paper's second-order loss (Eq. 14) has the former and lacks δ, which enters because the outputs s_k
depend on φ(s). With one step and equal rows w^0, zero in particular, δ vanishes; with more steps it does not, for the
rows of w^1 differ, but then it lies in the span of this task's own support features and holds nothing of earlier ones.

The features' Jacobian pulls each part back to the encoder (Section 2.3):

    ∂L/∂ϕ = Σ_q ∂φ(q)/∂ϕᵀ ∂L/∂φ(q) + Σ_s ∂φ(s)/∂ϕᵀ ∂L/∂φ(s)

The gradient is linear in the loss, so a batch of tasks has the mean of its tasks' parts.

Reference: Kao, Chiu and Chen, ICLR 2022, Sections 2.3, B.3 - B.5 and C.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.theory.coefficients import contrastive_coefficients
from metacontrast.theory.task import (
    FeatureTask,
    Trajectory,
    adjoints,
    query_errors,
    softmax_vjp,
    strip_constant,
    targets,
    walk,
)
from metacontrast.types import Episode, Head, Inner, Params


class FeatureGradient(NamedTuple):
    """Error signals at the features of one task; the two of the support set are zero in first order."""

    interference: Float[Tensor, "query feature"]
    contrastive_query: Float[Tensor, "query feature"]
    contrastive_support: Float[Tensor, "support feature"]
    head_curvature: Float[Tensor, "support feature"]

    @property
    def query(self) -> Float[Tensor, "query feature"]:
        """∂L/∂φ(q), all of it."""
        return self.interference + self.contrastive_query

    @property
    def support(self) -> Float[Tensor, "support feature"]:
        """∂L/∂φ(s), all of it."""
        return self.contrastive_support + self.head_curvature


def split_feature_gradient(task: FeatureTask, inner: Inner) -> FeatureGradient:
    """Split MAML's error signals at the features of one task into four parts; exact for any number of steps.

    Args:
        task: features, labels and head.
        inner: steps, step size and order of the inner loop, which moves the head only.

    A zeroed head does not interfere. With one orthogonal support image per class and η = 2 the logits of q
    = φ(s_0) are (1/2, -1/2), and it is pulled along φ(s_0) - φ(s_1) with weight η/|S| · q_1 = 1/(1 + e):

    >>> zero, y = Head(torch.zeros(2, 2), None), torch.tensor([0, 1])
    >>> task = FeatureTask(torch.eye(2), y, torch.eye(2)[:1], y[:1], zero)
    >>> parts = split_feature_gradient(task, Inner(lr=2.0))
    >>> parts.interference
    tensor([[0., 0.]])
    >>> parts.contrastive_query
    tensor([[-0.2689,  0.2689]])
    """
    return split_along(walk(task, inner), task.head)


def split_along(path: Trajectory, head: Head) -> FeatureGradient:
    """The four parts for an inner loop that was walked.

    Args:
        head: w^0, whose bias, if it has one, is what `path` holds as a last feature.
    """
    zero = torch.zeros_like(path.support)
    at_support = support_signals(path) if path.order == "second" else (zero, zero)
    return FeatureGradient(*(strip_constant(part, head) for part in (*query_signals(path), *at_support)))


def query_signals(path: Trajectory) -> tuple[Tensor, Tensor]:
    """Interference and contrastive part at the query features, Eq. 6 and 21 over |Q|."""
    interference = query_errors(path) @ path.heads[0]
    c = contrastive_coefficients(path.query_probs, path.query_y, path.support_probs, path.support_y)
    contrastive = path.lr / len(path.support) * c @ path.support
    return interference / len(path.query), contrastive / len(path.query)


def support_signals(path: Trajectory) -> tuple[Tensor, Tensor]:
    """Contrastive part and head curvature at the support features, summed over the inner steps."""
    contrastive, curvature = torch.zeros_like(path.support), torch.zeros_like(path.support)
    lam = adjoints(path)
    for s, w, lam_p in zip(path.support_probs, path.heads[:-1], lam[1:], strict=True):
        contrastive += (targets(path.support_y, s) - s) @ lam_p
        curvature -= softmax_vjp(s, path.support @ lam_p.T) @ w
    rate = path.lr / len(path.support)
    return rate * contrastive, rate * curvature


Tensors = dict[str, Tensor]


class EncoderGradient(NamedTuple):
    """The four parts as gradients of the encoder's tensors, by name."""

    interference: Tensors
    contrastive_query: Tensors
    contrastive_support: Tensors
    head_curvature: Tensors

    @property
    def total(self) -> Tensors:
        """Sum of the four parts: the encoder's gradient under MAML whose inner loop moves the head only."""
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
    if not params.encoder:
        raise InputError("no tensor of the encoder is learned, so there is no gradient to split")
    if params.rates or params.step_norms:
        raise InputError("the theory is that of one step size: give parameters without learned rates and step norms")
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
