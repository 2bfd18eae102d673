"""Which support images pulled a decision and which pushed, for one image.

Gradient descent makes the head a sum over the support images s and the steps t:

    w_k = w⁰_k + η Σ_t Σ_s e_t[s, k] φ_t(s),    b_k = b⁰_k + η Σ_t Σ_s e_t[s, k],    e_t = −∂L/∂z at step t

so that a logit of the query q is a sum over support images of η Σ_t e_t[s, k] (φ_t(s)ᵀφ_N(q) + 1), from a head of zeros
and nothing else. For cross entropy e_t[s, k] = (1[y_s = k] − p_t(k | s)) · weight of s; after one step from a head of
zeros that is η/|S| (1[y_s = k] − 1/K) φ(s)ᵀφ(q) where all classes have as many images. The other heads are sums over
support images too, with t_s the target of s and a_s its weight:

    nearest class mean    1[y_s = k] (2 φ(s)ᵀφ(q) − φ(s)ᵀc_k) / n_k
    ridge                 w_k = Σ_s a_s (t_s[k] − w_kᵀφ(s) − b_k) φ(s) / (λm),    b_k = Σ_s a_s (t_s[k] − w_kᵀφ(s))
    logistic regression   w_k = Σ_s a_s (t_s[k] − p(k | s)) φ(s) / (λm),          b_k belongs to no image

the last two because their gradient is 0 there; what a solver leaves of it is counted with the head's start.
"""

import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from metacontrast.classifier.candidates import Candidate, on_features
from metacontrast.classifier.fitted import check_finite, task_of
from metacontrast.classifier.storage import State
from metacontrast.errors import InputError, one_line
from metacontrast.maml.inner import standing_steps, task_losses, trajectory
from metacontrast.model.frozen import freeze, frozen_features
from metacontrast.model.head import class_means, one_hot
from metacontrast.model.model import Model, apply_head
from metacontrast.model.solvers import balanced_weights, penalty_unit
from metacontrast.types import Head, Inner, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Trace(NamedTuple):
    """A head taken apart.

    Args:
        parts: for every step, the coefficient of each support image for each class, and the images' features then.
        offset: what each image adds to each logit whatever the query.
        start: the head before the first step, or what belongs to no image.
        moved: whether the encoder moved: what it changed in the logits is then no image's alone.
    """

    parts: list[tuple[Float[Tensor, "support way"], Float[Tensor, "support feature"]]]
    offset: Float[Tensor, "support way"]
    start: Head
    moved: bool


class Contributions(NamedTuple):
    """What acts on the logit of one class minus that of another, see `Explanation`."""

    values: Float[Tensor, " support"]
    coefficients: Float[Tensor, " support"]
    similarities: Float[Tensor, " support"]
    start: Float[Tensor, ""]


@dataclass(frozen=True)
class Explanation:
    """Why an image was answered as it was.

    Args:
        label, against: the answer, and the class that it is compared with: the second best.
        difference: logit of `label` minus that of `against`, before the temperature.
        contributions: what each support image adds to it: above 0 it pulled towards `label`, below 0 it pushed away.
            They and `start` sum to `difference`.
        coefficients, similarities: the two factors of each contribution: what was made of the image's label, and
            φ(s)ᵀφ(q), with 1 added for the bias of inner steps. Their product is the contribution where the encoder did
            not move and the head is a sum of inner steps.
        start: what the head's start adds; 0 for a head of zeros. For logistic regression, its bias.
        through_encoder: how far the difference would be from this with the un-adapted encoder under the same head. It
            is 0 where the encoder did not move; the contributions then are all that the support images did.
        names, labels: of the support images.
    """

    label: Hashable
    against: Hashable
    difference: float
    contributions: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    similarities: NDArray[np.float64]
    start: float
    through_encoder: float
    names: tuple[str, ...]
    labels: tuple[Hashable, ...]

    @property
    def is_exact(self) -> bool:
        """Whether the support images acted through the contributions alone."""
        return self.through_encoder == 0

    def strongest(self, count: int = 5) -> list[int]:
        """Positions of the support images with the largest contributions of either sign."""
        return np.argsort(-np.abs(self.contributions), kind="stable")[:count].tolist()


def explainer(state: State) -> Callable[[UInt8[Tensor, "channel height width"]], Explanation]:
    """A function that explains the answer to one image; what does not depend on the image is done once."""
    start, support, plan, fitted = state.start, state.support, state.plan, state.fitted
    model, params, x = task_of(start, support, "cpu", plan.random_head)
    if fitted.candidate.method == "adapted" and params.rates:
        raise InputError(
            f"{start.name} adapts by learned rates, which no sum over support images describes: fit it with "
            "head='prototype' or 'ridge' to explain answers"
        )
    head = Head(fitted.network.weight, fitted.network.bias)
    found = trace(model, params, x, support.y, plan.inner, fitted.candidate, head)
    before = freeze(model, params.encoder, x) if found.moved else None

    def explain(image: UInt8[Tensor, "channel height width"]) -> Explanation:
        with torch.no_grad():
            shown = start.images.to_input(image[None])
            query = check_finite(frozen_features(fitted.network.encoder, shown))[0]
            unmoved = query if before is None else frozen_features(before, shown)[0]
        logits, elsewhere = (apply_head(head, features[None])[0].double() for features in (query, unmoved))
        one, other = logits.topk(2).indices.tolist()
        parts, coefficients, similarities, begun = contributions(found, query.double(), one, other)
        difference = (logits[one] - logits[other]).item()
        return Explanation(
            support.classes[one],
            support.classes[other],
            difference,
            parts.numpy(),
            coefficients.numpy(),
            similarities.numpy(),
            begun.item(),
            difference - (elsewhere[one] - elsewhere[other]).item(),
            support.names,
            tuple(support.labels),
        )

    return explain


def trace(
    model: Model,
    params: Params,
    x: Float[Tensor, "support channel height width"],
    y: Int[Tensor, " support"],
    inner: Inner,
    candidate: Candidate,
    head: Head | None = None,
) -> Trace:
    """The trace of a candidate's head, in float64; the arguments are those of `candidates.solve`.

    Args:
        head: what ridge or logistic regression found.
    """
    if candidate.method != "adapted":
        with torch.no_grad():
            features = model.features(params.encoder, x)
        if candidate.method == "prototype":
            return _trace_means(features, y, model.ways)
        assert head is not None
        return _trace_stationary(features, y, head, candidate)
    weights = balanced_weights(y, x.dtype)
    steps = Inner(candidate.steps, candidate.lr, inner.scope, "first", inner.loss)
    if standing_steps(model, steps) == steps.steps:
        model, params, x = on_features(model, params, x)
    first = current = model.start(params, x, y)
    parts = []
    for after in islice(trajectory(model, params, x, y, steps, weights), 1, None):
        with torch.no_grad():
            features = model.features(current.encoder, x)
        coefficients = candidate.lr * _errors(apply_head(current.head, features), y, steps, weights)
        parts.append((coefficients.double(), features.double()))
        current = after
    offset = torch.stack([coefficients for coefficients, _ in parts]).sum(0)
    encoders = zip(first.encoder.values(), current.encoder.values(), strict=True)
    moved = any(not torch.equal(before, now) for before, now in encoders)
    weight, bias = first.head.weight.detach().double(), first.head.bias
    if bias is None:
        return Trace(parts, torch.zeros_like(offset), Head(weight, None), moved)
    return Trace(parts, offset, Head(weight, bias.detach().double()), moved)


def contributions(found: Trace, query: Float[Tensor, " feature"], one: int, other: int) -> Contributions:
    """What every support image, and the head's start, adds to the logit of class `one` minus that of class `other`.

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


def draw_explanation(state: State, found: Explanation, pixels: Tensor, count: int = 8) -> "Figure":
    """The image, in the model's format, and the `count` support images that mattered most."""
    from metacontrast.plots.images import draw_contributions

    rows = found.strongest(count)
    return draw_contributions(
        f"{_shown(found.label)} rather than {_shown(found.against)}: logit difference {found.difference:.3g}",
        as_seen(state, pixels),
        as_seen(state, state.support.images[rows]),
        [_shown(found.labels[row]) for row in rows],
        found.contributions[rows],
    )


def save_explanation(state: State, found: Explanation, pixels: Tensor, path: Path) -> Path:
    """Write the picture; letters that matplotlib's font does not have are drawn as boxes."""
    from metacontrast.plots import save_figure

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        return save_figure(draw_explanation(state, found, pixels), path)


def as_seen(state: State, pixels: Tensor) -> NDArray[np.uint8]:
    """Images in the model's format with black and white as in the user's own files."""
    return 255 - pixels.numpy() if state.start.images.invert else pixels.numpy()


def _shown(label: object) -> str:
    """A label on one line, in which matplotlib sees no formula."""
    return one_line(str(label)).replace("$", r"\$")


def _trace_means(features: Float[Tensor, "support feature"], y: Int[Tensor, " support"], ways: int) -> Trace:
    members = one_hot(y, ways, features.dtype)
    share = members / members.sum(0)
    means = class_means(features, y, ways)
    offset = -share * (features @ means.T)
    nothing = Head(torch.zeros(ways, features.shape[1], dtype=torch.float64), None)
    return Trace([(2 * share.double(), features.double())], offset.double(), nothing, False)


def _trace_stationary(
    features: Float[Tensor, "support feature"], y: Int[Tensor, " support"], head: Head, candidate: Candidate
) -> Trace:
    """A head at which the gradient of loss and penalty is 0, in float64."""
    assert head.bias is not None
    phi, weight, bias = features.double(), head.weight.double(), head.bias.double()
    t, a = one_hot(y, len(weight), torch.float64), balanced_weights(y, torch.float64)[:, None]
    if candidate.method == "ridge":
        residual, offset = t - phi @ weight.T - bias, a * (t - phi @ weight.T)
    else:
        residual, offset = t - (phi @ weight.T + bias).softmax(1), torch.zeros_like(t)
    unit = candidate.strength * penalty_unit(phi, a[:, 0])
    coefficients = a * residual / (unit if candidate.method == "ridge" or len(weight) > 2 else 2 * unit)
    rest = Head(weight - coefficients.T @ phi, bias - offset.sum(0))
    return Trace([(coefficients, phi)], offset, rest, False)


def _errors(
    logits: Float[Tensor, "support way"], y: Int[Tensor, " support"], inner: Inner, weights: Float[Tensor, " support"]
) -> Float[Tensor, "support way"]:
    """−∂L/∂z."""
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(task_losses(leaf, y, inner.loss, weights), leaf)
    return -gradient
