"""The inner loop: a few gradient steps on a task's support set.

    θ⁰ = θ,    θⁱ = θⁱ⁻¹ − η ∇ L(θⁱ⁻¹, support),    i = 1 … N

θ = (encoder, head), L the mean cross entropy (paper Eq. 2, Algorithm 1). With order `second` the result stays a
differentiable function of θ through the gradients (SOMAML); with `first` the gradients count as constants (FOMAML).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.maml.checks import check_support
from metacontrast.model.head import one_hot
from metacontrast.model.model import Model
from metacontrast.types import Params, from_tensors, to_tensors

Scope = Literal["all", "head", "encoder"]
Order = Literal["first", "second"]
Loss = Literal["cross_entropy", "mean_square_error"]


@dataclass(frozen=True)
class Inner:
    """How a task is adapted to.

    Args:
        steps: number of gradient steps N, 0 or more.
        lr: step size η.
        scope: what moves: `all`, the `head` alone (ANIL), or the `encoder` alone (BOIL).
        order: whether the outer gradient runs through the inner gradients (`second`) or not (`first`).
        loss: mean cross entropy, or half the squared distance of the outputs to one-hot targets.
    """

    steps: int = 1
    lr: float = 0.01
    scope: Scope = "all"
    order: Order = "first"
    loss: Loss = "cross_entropy"

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"inner steps={self.steps}, but it must be 0 or more")
        if not self.lr > 0:
            raise InputError(f"inner lr={self.lr}, but it must be above 0")


def classification_loss(
    logits: Float[Tensor, "image way"],
    labels: Int[Tensor, " image"],
    loss: Loss,
    weights: Float[Tensor, " image"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over the images of cross entropy, or of ½ |logits − one-hot(label)|².

    Args:
        weights: of the images in the mean, with sum 1; None weighs them alike.
    """
    each = image_losses(logits, labels, loss)
    return each.mean() if weights is None else weights @ each


def image_losses(
    logits: Float[Tensor, "*task image way"], labels: Int[Tensor, "*task image"], loss: Loss
) -> Float[Tensor, "*task image"]:
    """Cross entropy, or ½ |logits − one-hot(label)|², of every image."""
    if loss == "cross_entropy":
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
    return (logits - one_hot(labels, logits.shape[-1], logits.dtype)).square().sum(-1) / 2


def adapt(
    model: Model,
    params: Params,
    support_x: Float[Tensor, "support channel height width"],
    support_y: Int[Tensor, " support"],
    inner: Inner,
    weights: Float[Tensor, " support"] | None = None,
) -> Params:
    """The parameters after `inner.steps` steps on the support set.

    Differentiable in `params` where these require a gradient, as `inner.order` says.

    Args:
        weights: of the support images in the loss, with sum 1; None weighs them alike.

    Raises:
        InputError: labels do not fit the images or the model's ways, or nothing may move.
    """
    check_support(model, params, support_x, support_y, inner.scope)
    return last(trajectory(model, params, support_x, support_y, inner, weights))


def trajectory(
    model: Model,
    params: Params,
    support_x: Float[Tensor, "support channel height width"],
    support_y: Int[Tensor, " support"],
    inner: Inner,
    weights: Float[Tensor, " support"] | None = None,
    differentiate: "Differentiate | None" = None,
) -> Iterator[Params]:
    """Yield the parameters before the first step and after every step; see `inner_step`."""
    current = model.start(params, support_x, support_y)
    yield current
    for _ in range(inner.steps):
        current = inner_step(model, current, support_x, support_y, inner, weights, differentiate or by_autograd)
        yield current


def last(steps: Iterator[Params]) -> Params:
    """Where a trajectory ends; what it went through is let go."""
    return reduce(lambda _, after: after, steps)


Differentiate = Callable[[Callable[[list[Tensor]], Tensor], list[Tensor], bool], Sequence[Tensor]]


def by_autograd(loss: Callable[[list[Tensor]], Tensor], at: list[Tensor], second: bool) -> Sequence[Tensor]:
    """The gradient of `loss` at `at`; `second` says whether it is to be differentiated again."""
    with torch.enable_grad():
        aliases = [t.view_as(t) if second and t.requires_grad else t.detach().requires_grad_() for t in at]
        return torch.autograd.grad(loss(aliases), aliases, create_graph=second)


def by_transform(loss: Callable[[list[Tensor]], Tensor], at: list[Tensor], second: bool) -> Sequence[Tensor]:
    """The same as a `torch.func` transform, which can be mapped over tasks and compiled."""
    found = torch.func.grad(loss)(at)
    return found if second else [gradient.detach() for gradient in found]


def inner_step(
    model: Model,
    params: Params,
    support_x: Float[Tensor, "support channel height width"],
    support_y: Int[Tensor, " support"],
    inner: Inner,
    weights: Float[Tensor, " support"] | None = None,
    differentiate: Differentiate = by_autograd,
) -> Params:
    """One gradient step on the support set (paper Eq. 4 for the head).

    The loss is differentiated at aliases of the parameters: a head that was built from the encoder (`prototype`)
    counts as a parameter of its own here.
    """
    tensors = to_tensors(params)
    moving = slice(*moving_part(params, inner.scope))
    second = inner.order == "second" and (differentiate is by_transform or any(t.requires_grad for t in tensors))

    def loss(moved: list[Tensor]) -> Tensor:
        inputs = list(tensors) if second else [t.detach() for t in tensors]
        inputs[moving] = moved
        logits = model.logits(from_tensors(params, inputs), support_x)
        return classification_loss(logits, support_y, inner.loss, weights)

    gradients: list[Tensor | None] = [None] * len(tensors)
    gradients[moving] = differentiate(loss, tensors[moving], second)
    return from_tensors(params, descend(tensors, gradients, inner.lr))


def descend(tensors: Sequence[Tensor], gradients: Sequence[Tensor | None], lr: float | Tensor) -> list[Tensor]:
    """θ − η g for every tensor; one without a gradient stays as it is."""
    return [t if g is None else t - lr * g for t, g in zip(tensors, gradients, strict=True)]


def moving_part(params: Params, scope: Scope) -> tuple[int, int]:
    """First and one past the last place, in the order of `to_tensors`, of the tensors that the inner loop moves."""
    encoder_end, end = len(params.encoder), len(to_tensors(params))
    return {"all": (0, end), "head": (encoder_end, end), "encoder": (0, encoder_end)}[scope]
