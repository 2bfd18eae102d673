"""The inner loop: a few gradient steps on each task's support set.

    θ⁰ = θ,    θⁱ = θⁱ⁻¹ − η ∇ L(θⁱ⁻¹, support),    i = 1 … N

θ = (encoder, head), L the mean cross entropy (paper Eq. 2, Algorithm 1). With order `second` the result stays a
differentiable function of θ through the gradients (SOMAML); with `first` the gradients count as constants (FOMAML).

Tasks are a leading axis, and the loss is summed over it: ∂ Σ_t L_t / ∂θ_t = ∂L_t / ∂θ_t is every task's own gradient.
While the encoder does not move, its parameters have no task axis and its support features are computed once: in every
step of scope `head`, and in the first step from a head of zeros, where ∂L/∂φ = Wᵀ ∂L/∂z = 0.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.fields import check_fields
from metacontrast.maml.checks import check_support
from metacontrast.model.head import one_hot
from metacontrast.model.model import Model, apply_head
from metacontrast.types import Order, Params, head_from, head_tensors

Scope = Literal["all", "head", "encoder"]
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
        if isinstance(self.lr, Tensor):
            raise InputError("inner lr is a tensor, whose gradient would be lost: pass a float")
        check_fields(self)
        if self.steps < 0:
            raise InputError(f"inner steps={self.steps}, but it must be 0 or more")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"inner lr={self.lr}, but it must be above 0 and finite")


def task_losses(
    logits: Float[Tensor, "*task image way"],
    labels: Int[Tensor, "*task image"],
    loss: Loss,
    weights: Float[Tensor, "*task image"] | None = None,
) -> Float[Tensor, "*task"]:
    """Mean over a task's images of cross entropy, or of ½ |logits − one-hot(label)|².

    Args:
        weights: of the images in the mean, with sum 1; None weighs them alike.
    """
    if loss == "cross_entropy":
        each = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
    else:
        each = (logits - one_hot(labels, logits.shape[-1], logits.dtype)).square().sum(-1) / 2
    return each.mean(-1) if weights is None else (weights * each).sum(-1)


def adapt(
    model: Model,
    params: Params,
    support_x: Float[Tensor, "*task support channel height width"],
    support_y: Int[Tensor, "*task support"],
    inner: Inner,
    weights: Float[Tensor, "*task support"] | None = None,
) -> Params:
    """The parameters after `inner.steps` steps on the support set, or on that of every task.

    Differentiable in `params` where these require a gradient, as `inner.order` says.

    Args:
        weights: of the support images in the loss, with sum 1; None weighs them alike.

    Returns:
        Parameters with a leading task axis where the support set has one; an encoder that does not move has none.

    Raises:
        InputError: labels do not fit the images or the model's ways, or nothing may move.
    """
    check_support(model, params, support_x, support_y, inner.scope)
    return last(trajectory(model, params, support_x, support_y, inner, weights))


def last(steps: Iterator[Params]) -> Params:
    """The end of a trajectory."""
    return reduce(lambda _, after: after, steps)


Pullback = Callable[[Tensor], Sequence[Tensor]]
VJP = Callable[[Callable[..., tuple[Tensor, Any]], Sequence[Tensor], bool], tuple[Tensor, Any, Pullback]]
"""Of a function that returns a value and extras: both at some tensors, and the map from a cotangent of the value to
those of the tensors. The last argument says whether the result is to be differentiated again.
"""


def autograd_vjp(
    function: Callable[..., tuple[Tensor, Any]], at: Sequence[Tensor], second: bool
) -> tuple[Tensor, Any, Pullback]:
    """`VJP` by `torch.autograd`, at aliases: a tensor computed from another one counts as a variable of its own."""
    second = second and any(t.requires_grad for t in at)
    with torch.enable_grad():
        aliases = [t.view_as(t) if second and t.requires_grad else t.detach().requires_grad_() for t in at]
        value, extras = function(*aliases)

    def pull(cotangent: Tensor) -> Sequence[Tensor]:
        try:
            return torch.autograd.grad(value, aliases, cotangent, create_graph=second, materialize_grads=True)
        except RuntimeError as error:
            if "is not implemented" not in str(error):
                raise
            raise InputError(
                f"order='second' needs a second derivative that PyTorch lacks ({error}): use order='first', or for "
                "attention torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around the call"
            ) from error

    return value if second else value.detach(), extras, pull


def transform_vjp(
    function: Callable[..., tuple[Tensor, Any]], at: Sequence[Tensor], second: bool
) -> tuple[Tensor, Any, Pullback]:
    """`VJP` as a `torch.func` transform, which `torch.compile` can follow."""
    value, pull, extras = torch.func.vjp(function, *at, has_aux=True)  # pyright: ignore[reportAssignmentType]
    if second:
        return value, extras, pull
    return value.detach(), extras, lambda cotangent: [t.detach() for t in pull(cotangent)]


def trajectory(
    model: Model,
    params: Params,
    support_x: Float[Tensor, "*task support channel height width"],
    support_y: Int[Tensor, "*task support"],
    inner: Inner,
    weights: Float[Tensor, "*task support"] | None = None,
    vjp: VJP = autograd_vjp,
) -> Iterator[Params]:
    """Yield the parameters before the first step and after every step."""
    if support_y.ndim == 1:
        one = None if weights is None else weights[None]
        tasks = trajectory(model, params, support_x[None], support_y[None], inner, one, vjp)
        yield from map(model.only_task, tasks)
        return
    encoder, head = model.start(params, support_x, support_y)
    yield Params(encoder, head)
    second, standing = inner.order == "second", standing_steps(model, inner)

    def encode(*tensors: Tensor) -> tuple[Tensor, tuple[()]]:
        return model.task_features(dict(zip(encoder, tensors, strict=True)), support_x), ()

    def loss(features: Tensor, *head: Tensor) -> tuple[Tensor, tuple[()]]:
        return task_losses(apply_head(head_from(head), features), support_y, inner.loss, weights), ()

    features, pull = None, None
    for step in range(inner.steps):
        if features is None and standing == inner.steps:
            with torch.set_grad_enabled(second and torch.is_grad_enabled()):
                features, _ = encode(*encoder.values())
        elif features is None:
            encoder = model.for_tasks(encoder, len(support_y))
            features, _, pull = vjp(encode, list(encoder.values()), second)
        losses, _, pull_losses = vjp(loss, [features, *head_tensors(head)], second)
        at_features, *at_head = pull_losses(torch.ones_like(losses))
        if inner.scope != "encoder":
            head = head_from(descend(head_tensors(head), at_head, inner.lr))
        if pull is not None and step >= standing:
            encoder = dict(zip(encoder, descend(list(encoder.values()), pull(at_features), inner.lr), strict=True))
            features = None
        yield Params(encoder, head)


def standing_steps(model: Model, inner: Inner) -> int:
    """How many steps from the first on leave the encoder where it is."""
    if model.is_frozen or inner.scope == "head" or (model.head == "zeroed" and inner.scope == "encoder"):
        return inner.steps
    return min(inner.steps, 1) if model.head == "zeroed" else 0


def descend(tensors: Sequence[Tensor], gradients: Sequence[Tensor | None], lr: float | Tensor) -> list[Tensor]:
    """θ − η g for every tensor; one without a gradient stays as it is."""
    return [t if g is None else t - lr * g for t, g in zip(tensors, gradients, strict=True)]
