"""What every support image adds to a logit.

Gradient descent makes the head a sum over the support images s and the steps t:

    w_k = w⁰_k + η Σ_t Σ_s e_t[s, k] φ_t(s),    b_k = b⁰_k + η Σ_t Σ_s e_t[s, k],    e_t = −∂L/∂z at step t

so that a logit of the query q is a sum over support images of η Σ_t e_t[s, k] (φ_t(s)ᵀφ_N(q) + 1), from a head of zeros
and nothing else. For cross entropy e_t[s, k] = (1[y_s = k] − p_t(k | s)) · weight of s; after one step from a head of
zeros that is η/|S| (1[y_s = k] − 1/K) φ(s)ᵀφ(q) where all classes have as many images. The nearest class mean is a
sum over support images too: 1[y_s = k] (2 φ(s)ᵀφ(q) − φ(s)ᵀc_k) / n_k.
"""

from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.classifier.candidates import Candidate, on_features
from metacontrast.classifier.support import balanced_weights
from metacontrast.maml.inner import Inner, standing_steps, task_losses, trajectory
from metacontrast.model.head import class_means
from metacontrast.model.model import Model, apply_head
from metacontrast.types import Head, Params, to_tensors


class Contributions(NamedTuple):
    """What acts on the logit of one class less that of another; see `classifier.explanation`."""

    values: Float[Tensor, " support"]
    coefficients: Float[Tensor, " support"]
    similarities: Float[Tensor, " support"]
    start: Float[Tensor, ""]


class Trace(NamedTuple):
    """A head taken apart.

    Args:
        parts: for every step, the coefficient of each support image for each class, and the images' features then.
        offset: what each image adds to each logit whatever the query.
        start: the head before the first step.
        moved: whether the encoder moved: what it changed in the logits is then no image's alone.
    """

    parts: list[tuple[Float[Tensor, "support way"], Float[Tensor, "support feature"]]]
    offset: Float[Tensor, "support way"]
    start: Head
    moved: bool


def trace(
    model: Model,
    params: Params,
    x: Float[Tensor, "support channel height width"],
    y: Int[Tensor, " support"],
    inner: Inner,
    candidate: Candidate,
) -> Trace:
    """The trace of a candidate's head; the arguments are those of `candidates.solve`."""
    if not candidate.steps:
        with torch.no_grad():
            return _trace_means(model.features(params.encoder, x), y, model.ways)
    weights = balanced_weights(y, x.dtype)
    steps = Inner(candidate.steps, candidate.lr, inner.scope, "first", inner.loss)
    if standing_steps(model, steps) == steps.steps:
        model, params, x = on_features(model, params, x)
    first = current = model.start(params, x, y)
    parts = []
    for after in islice(trajectory(model, params, x, y, steps, weights), 1, None):
        with torch.no_grad():
            features = model.features(current.encoder, x)
        parts.append((candidate.lr * _errors(apply_head(current.head, features), y, steps, weights), features))
        current = after
    offset = torch.stack([coefficients.double() for coefficients, _ in parts]).sum(0)
    moved = any(not torch.equal(a, b) for a, b in zip(_encoder(first), _encoder(current), strict=True))
    return Trace(parts, offset if first.head.bias is not None else torch.zeros_like(offset), first.head, moved)


def contributions(found: Trace, query: Float[Tensor, " feature"], one: int, other: int) -> Contributions:
    """What every support image, and the head's start, adds to the logit of class `one` less that of class `other`.

    Args:
        query: features of the query image under the adapted encoder.
    """
    total = found.offset[:, one] - found.offset[:, other]
    summed, similarities = torch.zeros_like(total), torch.zeros_like(total)
    for coefficients, features in found.parts:
        share, similarities = coefficients[:, one] - coefficients[:, other], features @ query
        summed, total = summed + share, total + share * similarities
    before = apply_head(found.start, query[None])[0]
    bias = float(found.start.bias is not None)
    return Contributions(total, summed, similarities + bias, before[one] - before[other])


def _trace_means(features: Float[Tensor, "support feature"], y: Int[Tensor, " support"], ways: int) -> Trace:
    members = torch.nn.functional.one_hot(y, ways).to(features.dtype)
    share = members / members.sum(0)
    means = class_means(features, y, ways)
    nothing = Head(features.new_zeros(ways, features.shape[1]), None)
    return Trace([(2 * share, features)], -share * (features @ means.T), nothing, False)


def _errors(
    logits: Float[Tensor, "support way"], y: Int[Tensor, " support"], inner: Inner, weights: Float[Tensor, " support"]
) -> Float[Tensor, "support way"]:
    """−∂L/∂z."""
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(task_losses(leaf, y, inner.loss, weights), leaf)
    return -gradient


def _encoder(params: Params) -> list[Tensor]:
    return to_tensors(params)[: len(params.encoder)]
