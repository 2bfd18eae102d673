"""The slow, obvious MAML: one task at a time, one tensor at a time, and `torch.autograd` for every
derivative.

It is the second author of every gradient in the package and imports none of its algorithms. An encoder is a
plain function `features(encoder_params, x)` that returns `(image, feature)`; parameters are plain tensors.

    inner step      θ^i = θ^{i-1} - lr ∂L_S(θ^{i-1})/∂θ^{i-1}          for the part of θ that `scope` names
    second order    gradient of L_Q(θ^N) with respect to θ^0
    first order     gradient of L_Q(θ^N) with respect to θ^N

Every loss is a mean over samples. The mean square error of one sample is half the sum over classes,
½ Σ_k (z_k - 1[k=y])², so that its derivative is z - onehot(y).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from metacontrast.types import Episode, Head, Params


def sample_losses(logits: Tensor, y: Tensor, loss: str) -> list[Tensor]:
    losses = []
    for z, label in zip(logits, y.tolist(), strict=True):
        if loss == "cross_entropy":
            losses.append(torch.logsumexp(z, 0) - z[label])
        elif loss == "mean_square_error":
            target = torch.zeros_like(z)
            target[label] = 1
            losses.append(0.5 * ((z - target) ** 2).sum())
        else:
            raise ValueError(loss)
    return losses


def task_loss(features, params: Params, x: Tensor, y: Tensor, loss: str = "cross_entropy") -> Tensor:
    logits = features(params.encoder, x) @ params.head.weight.T
    if params.head.bias is not None:
        logits = logits + params.head.bias
    losses = sample_losses(logits, y, loss)
    return sum(losses[1:], losses[0]) / len(losses)


def flatten(params: Params) -> dict[str, Tensor]:
    flat = {f"encoder/{name}": tensor for name, tensor in params.encoder.items()}
    flat["head/weight"] = params.head.weight
    if params.head.bias is not None:
        flat["head/bias"] = params.head.bias
    return flat


def unflatten(flat: dict[str, Tensor]) -> Params:
    encoder = {name[8:]: tensor for name, tensor in flat.items() if name.startswith("encoder/")}
    return Params(encoder, Head(flat["head/weight"], flat.get("head/bias")))


def leaves(params: Params) -> Params:
    return unflatten({name: tensor.detach().clone().requires_grad_() for name, tensor in flatten(params).items()})


def gradients(value: Tensor, wanted: dict[str, Tensor], create_graph: bool = False) -> dict[str, Tensor]:
    grads = torch.autograd.grad(
        value,
        list(wanted.values()),
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(wanted, grads, strict=True))


def adapt(
    features,
    params: Params,
    support_x: Tensor,
    support_y: Tensor,
    steps: int,
    lr: float,
    scope: str = "all",
    order: str = "first",
    loss: str = "cross_entropy",
) -> Params:
    """Inner loop; in second order the result hangs on the graph of `params`, else it is fresh leaves."""
    if order == "first":
        params = leaves(params)
    for _ in range(steps):
        value = task_loss(features, params, support_x, support_y, loss)
        flat = flatten(params)
        moving = {n: t for n, t in flat.items() if scope == "all" or n.startswith(scope + "/")}
        grads = gradients(value, moving, create_graph=order == "second")
        flat.update({name: tensor - lr * grads[name] for name, tensor in moving.items()})
        params = unflatten(flat)
        if order == "first":
            params = leaves(params)
    return params


def task_meta_gradient(
    features,
    params: Params,
    episode: Episode,
    steps: int,
    lr: float,
    scope: str = "all",
    order: str = "first",
    loss: str = "cross_entropy",
) -> Params:
    start = leaves(params)
    adapted = adapt(features, start, episode.support_x, episode.support_y, steps, lr, scope, order, loss)
    value = task_loss(features, adapted, episode.query_x, episode.query_y, loss)
    return unflatten(gradients(value, flatten(start if order == "second" else adapted)))


def meta_gradient(features, params: Params, episodes: Sequence[Episode], *args, **kwargs) -> Params:
    """Mean over tasks; the further arguments are those of `task_meta_gradient`."""
    per_task = [flatten(task_meta_gradient(features, params, e, *args, **kwargs)) for e in episodes]
    mean = {}
    for name in per_task[0]:
        total = torch.zeros_like(per_task[0][name])
        for grads in per_task:
            total = total + grads[name]
        mean[name] = total / len(per_task)
    return unflatten(mean)


def zero_head(params: Params) -> Params:
    bias = params.head.bias
    zero_bias = None if bias is None else torch.zeros_like(bias)
    return Params(params.encoder, Head(torch.zeros_like(params.head.weight), zero_bias))


def outer_update(
    features,
    params: Params,
    episodes: Sequence[Episode],
    outer_lr: float,
    *args,
    zeroed: bool = False,
    **kwargs,
) -> Params:
    """One step of plain gradient descent; the zeroing trick sets the head to zero before and after it."""
    if zeroed:
        params = zero_head(params)
    grads = flatten(meta_gradient(features, params, episodes, *args, **kwargs))
    stepped = {name: tensor.detach() - outer_lr * grads[name] for name, tensor in flatten(params).items()}
    return zero_head(unflatten(stepped)) if zeroed else unflatten(stepped)
