"""Several tasks that step side by side: parameters get a leading axis for tasks.

    L = Σ over tasks of L_t(θ_t),    ∂L/∂θ_t = ∂L_t/∂θ_t

so one derivative of the sum is every task's own, in the inner loops and for the outer gradient. What all tasks have in
common is done once: the features of an encoder that does not move (ANIL) are one pass over the images of all tasks,
and where it does move, the work between its convolutions is shared (see `metacontrast.model.norm_block`). The
arithmetic is that of `inner` and `outer`.
"""

from collections.abc import Collection, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.maml.inner import Inner, by_autograd, descend, image_losses, last, moving_part
from metacontrast.maml.outer import Metrics
from metacontrast.model.head import class_means, prototype_head
from metacontrast.model.model import Model
from metacontrast.types import Episode, Head, Params, from_tensors, to_tensors


def abreast_gradient(model: Model, params: Params, episodes: Episode, inner: Inner) -> tuple[Params, Metrics]:
    """The sum of the tasks' outer gradients, and the metrics of every task.

    Args:
        episodes: tasks of one shape, stacked along a leading axis.
        inner: with a scope other than `head` only where `Model.runs_abreast`.
    """
    leaves = [t.detach().requires_grad_() for t in to_tensors(params)]
    with torch.enable_grad():
        adapted = last(_trajectory(model, from_tensors(params, leaves), episodes, inner))
        logits = _logits(adapted.head, query_features(model, adapted.encoder, episodes))
        losses = image_losses(logits, episodes.query_y, inner.loss).mean(1)
        gradients = torch.autograd.grad(losses.sum(), leaves, materialize_grads=True)
    accuracy = (logits.argmax(2) == episodes.query_y).to(logits.dtype).mean(1)
    return from_tensors(params, gradients), Metrics(losses.detach(), accuracy)


def abreast_logits(
    model: Model, params: Params, episodes: Episode, inner: Inner, steps: Collection[int]
) -> Iterator[Float[Tensor, "task query way"]]:
    """Yield every task's query logits after each of `steps` inner steps.

    Args:
        episodes, inner: as for `abreast_gradient`.
    """
    for step, adapted in enumerate(_trajectory(model, params, episodes, inner)):
        if step in steps:
            with torch.no_grad():
                logits = _logits(adapted.head, query_features(model, adapted.encoder, episodes))
            yield logits


def _start(model: Model, params: Params, episodes: Episode, inner: Inner) -> Params:
    """Every task's parameters before its first step; an encoder that does not move stays one for all."""
    tasks = len(episodes.support_y)
    encoder = params.encoder
    if inner.scope != "head":
        encoder = {name: _channels_last(t).expand(tasks, *t.shape) for name, t in encoder.items()}
    if model.head == "prototype" and len(params.head.weight) == 0:
        return Params(encoder, prototype_head(support_means(model, params.encoder, episodes)))
    weight, bias = model.start(params, episodes.support_x[0], episodes.support_y[0]).head
    return Params(encoder, Head(weight.expand(tasks, *weight.shape), None if bias is None else bias.expand(tasks, -1)))


def _channels_last(tensor: Tensor) -> Tensor:
    """A convolution's weight in the order that its kernels take."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _trajectory(model: Model, params: Params, episodes: Episode, inner: Inner) -> Iterator[Params]:
    """Yield the tasks' parameters before the first step and after every step."""
    current = _start(model, params, episodes, inner)
    yield current
    support = None
    if inner.scope == "head":
        with torch.set_grad_enabled(inner.order == "second"):
            support = _features(model, current.encoder, episodes.support_x)
    for _ in range(inner.steps):
        current = _step(model, current, episodes, inner, support)
        yield current


def _step(model: Model, params: Params, episodes: Episode, inner: Inner, support: Tensor | None) -> Params:
    """One gradient step of all tasks; `support` are the features of an encoder that does not move."""
    tensors, second = to_tensors(params), inner.order == "second"
    moving = slice(*moving_part(params, inner.scope))

    def loss(moved: list[Tensor]) -> Tensor:
        inputs = list(tensors) if second else [t.detach() for t in tensors]
        inputs[moving] = moved
        at = from_tensors(params, inputs)
        features = _features(model, at.encoder, episodes.support_x) if support is None else support
        return image_losses(_logits(at.head, features), episodes.support_y, inner.loss).mean(1).sum()

    gradients: list[Tensor | None] = [None] * len(tensors)
    gradients[moving] = by_autograd(loss, tensors[moving], second)
    return from_tensors(params, descend(tensors, gradients, inner.lr))


def support_means(model: Model, encoder: dict[str, Tensor], episodes: Episode) -> Float[Tensor, "task way feature"]:
    """Every task's class means over the support set, of an encoder that is one for all."""
    support = _features(model, encoder, episodes.support_x)
    return torch.stack([class_means(*task, model.ways) for task in zip(support, episodes.support_y, strict=True)])


def _features(
    model: Model,
    encoder: dict[str, Tensor],
    images: Float[Tensor, "task image channel height width"],
    reference: int = 0,
) -> Float[Tensor, "task image feature"]:
    """Every task's features."""
    found = model.features(encoder, images.flatten(0, 1), reference, len(images))
    return found.unflatten(0, images.shape[:2])


def query_features(model: Model, encoder: dict[str, Tensor], episodes: Episode) -> Float[Tensor, "task query feature"]:
    """Every task's query features under the model's normalization policy; the encoder may have an axis for tasks."""
    if model.norm != "inductive":
        return _features(model, encoder, episodes.query_x)
    shots = episodes.support_y.shape[1]
    both = torch.cat([episodes.support_x, episodes.query_x], 1)
    return _features(model, encoder, both, reference=shots)[:, shots:]


def _logits(heads: Head, features: Float[Tensor, "task image feature"]) -> Float[Tensor, "task image way"]:
    scores = features @ heads.weight.transpose(1, 2)
    return scores if heads.bias is None else scores + heads.bias[:, None]
