"""Methods whose outer gradient never runs through the inner steps: Reptile and implicit MAML.

Reptile   g = θ − θᴺ: the way of N inner steps, step i on a part of its own of the task's images
          (Nichol, Achiam and Schulman 2018); outer gradient descent by ε is their update θ ← θ + ε (θᴺ − θ)
iMAML     g = (I + H/λ)⁻¹ ∇L(θᴺ, query): θᴺ near the minimum of L(·, support) + λ/2 |· − θ|², H the Hessian of
          L(·, support) there; solved by conjugate gradients (Rajeswaran et al. 2019)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metacontrast.errors import InputError, check_counts
from metacontrast.maml.checks import check_method, check_second_derivative, check_tasks
from metacontrast.maml.inner import adapt, gradients, task_losses
from metacontrast.maml.outer import Metrics, accuracies
from metacontrast.model.model import Model
from metacontrast.types import Episode, Inner, Params, from_named, map_params, to_named

Named = dict[str, Tensor]


def reptile(model: Model, params: Params, episode: Episode, inner: Inner) -> tuple[Params, Metrics]:
    """Compute Reptile's gradient of one task: the start minus the parameters after the inner loop on all its images.

    Args:
        inner: N steps; each sees every N-th of the images, which are sorted by class.

    Returns:
        θ − θᴺ, and loss and accuracy of the query images after the last step, which has seen them.
    """
    check_method("reptile", model, ("learned", "zeroed"), inner, params)
    check_tasks(model, params, episode, inner.scope, (inner.loss, inner.loss))
    if inner.scope == "head" and params.encoder:
        raise InputError(
            "reptile learns what the inner loop moves, but scope='head' keeps the encoder as it is: use scope='all'"
        )
    if model.head == "zeroed" and inner.steps < 2:
        raise InputError(
            "the first step from a zero head keeps the encoder as it is, and nothing is learned: take 2 steps"
        )
    x, y = torch.cat([episode.support_x, episode.query_x]), torch.cat([episode.support_y, episode.query_y])
    if len(y) < 2 * inner.steps:
        raise InputError(f"{inner.steps} inner steps need 2 images each, but a task has {len(y)}: lower --inner-steps")
    order = y.argsort(stable=True)
    moved = model.start(params, episode.support_x, episode.support_y)
    going, step = model.with_head("learned"), replace(inner, steps=1, order="first")
    for number in range(inner.steps):
        part = order[number :: inner.steps]
        moved = adapt(going, moved, x[part], y[part], step)
    end = moved if model.head == "learned" else moved._replace(head=params.head)  # a zeroed head stays, of any size
    return map_params(torch.sub, params, end), _metrics(going, moved, episode, inner)


@dataclass(frozen=True)
class Pull:
    """The direction of inner steps on L(φ) + λ/2 |φ − θ|², with φ − θ as its memory."""

    lr: float
    penalty: float

    def __call__(self, gradient: Named, way: Any) -> tuple[Named, Any]:
        """The gradient of the sum, and φ − θ after the step along it."""
        way = {name: torch.zeros_like(g) for name, g in gradient.items()} if way is None else way
        gradient = {name: g + self.penalty * way[name] for name, g in gradient.items()}
        return gradient, {name: way[name] - self.lr * g for name, g in gradient.items()}


def proximal(inner: Inner, penalty: float) -> Inner:
    """Inner steps on L(φ) + λ/2 |φ − θ|², which pulls them back to the start θ."""
    if not 0 < penalty < float("inf"):
        raise InputError(f"penalty={penalty}, but it must be above 0 and finite")
    if inner.lr * penalty >= 2:
        raise InputError(
            f"inner steps of size {inner.lr:g} under penalty={penalty:g} overshoot their start and diverge: their "
            "product must be below 2"
        )
    return replace(inner, direction=Pull(inner.lr, penalty))


def imaml(
    model: Model, params: Params, episode: Episode, inner: Inner, *, penalty: float = 2.0, cg_steps: int = 5
) -> tuple[Params, Metrics]:
    """The implicit gradient of one task, which needs no memory of the inner steps.

    Args:
        inner: the inner loop, which is made proximal; it moves encoder and head.
        penalty: λ.
        cg_steps: of the conjugate gradients.
    """
    plain = replace(inner, direction=None) if isinstance(inner.direction, Pull) else inner
    check_method("imaml", model, ("learned", "zeroed"), plain, params)
    check_counts(cg_steps=cg_steps)
    if inner.scope != "all":
        raise InputError(f"imaml adapts encoder and head, but inner has scope={inner.scope!r}: use scope='all'")
    check_tasks(model, params, episode, inner.scope, (inner.loss, inner.loss))
    loop = replace(proximal(plain, penalty), order="first")
    adapted = map_params(torch.Tensor.detach, adapt(model, params, episode.support_x, episode.support_y, loop))
    leaves = map_params(lambda t: t.detach().requires_grad_(), adapted)
    with torch.enable_grad():
        support = task_losses(model.logits(leaves, episode.support_x), episode.support_y, inner.loss)
        outputs = model.query_logits(leaves, episode.support_x, episode.query_x)
        query = task_losses(outputs, episode.query_y, inner.loss)
    named = to_named(leaves)
    check_second_derivative(support, ())
    slopes = _gradient(support, named, create_graph=True)
    wanted = _gradient(query, named)

    def curved(vector: Named) -> Named:
        product = sum((slopes[name] * vector[name]).sum() for name in vector)
        assert isinstance(product, Tensor)
        hessian = _gradient(product, named, retain_graph=True)
        return {name: vector[name] + hessian[name] / penalty for name in vector}

    gradient = from_named(leaves, conjugate_gradients(curved, wanted, cg_steps))
    return gradient, Metrics(query.detach()[None], accuracies(outputs.detach(), episode.query_y)[None])


def conjugate_gradients(matrix: Callable[[Named], Named], wanted: Named, steps: int) -> Named:
    """x with matrix(x) ≈ wanted, from 0, for a symmetric matrix; stops where it is exact, or not positive on the way.

    Where the matrix is not positive along `wanted` itself, x is `wanted`.

    Args:
        matrix: its product with a vector, all by name.
    """
    found, rest = {name: torch.zeros_like(t) for name, t in wanted.items()}, dict(wanted)
    way, size = dict(rest), _dot(rest, rest)
    for step in range(steps):
        turned = matrix(way)
        along = _dot(way, turned)
        if not (size > 0 and along > 0):
            return found if step else dict(wanted)
        length = size / along
        found = {name: t + length * way[name] for name, t in found.items()}
        rest = {name: t - length * turned[name] for name, t in rest.items()}
        size, before = _dot(rest, rest), size
        way = {name: t + size / before * way[name] for name, t in rest.items()}
    return found


def _dot(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([(t * other[name]).sum() for name, t in one.items()]).sum()


def _gradient(value: Tensor, named: Named, create_graph: bool = False, retain_graph: bool = False) -> Named:
    found = gradients(value, list(named.values()), create_graph=create_graph, retain_graph=retain_graph)
    return dict(zip(named, found, strict=True))


@torch.no_grad()
def _metrics(model: Model, adapted: Params, episode: Episode, inner: Inner) -> Metrics:
    outputs = model.query_logits(adapted, episode.support_x, episode.query_x)
    return Metrics(task_losses(outputs, episode.query_y, inner.loss)[None], accuracies(outputs, episode.query_y)[None])
