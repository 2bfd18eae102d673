"""The inner loop: a few gradient steps on each task's support set.

    θ⁰ = θ,    θⁱ = θⁱ⁻¹ − η ∇ L(θⁱ⁻¹, support),    i = 1 … N

θ = (encoder, head), L the mean cross entropy (paper Eq. 2, Algorithm 1). With order `second` the result stays a
differentiable function of θ through the gradients (SOMAML); with `first` the gradients count as constants (FOMAML).

Tasks are a leading axis, and the loss is summed over it: ∂ Σ_t L_t / ∂θ_t = ∂L_t / ∂θ_t is every task's own gradient.
While the encoder does not move, its parameters have no task axis and its support features are computed once: in every
step of scope `head`, and in the first step from a head of zeros, where ∂L/∂φ = Wᵀ ∂L/∂z = 0.

Open to research: the loss may be a function (regression), the gradient may pass through one before the step (momentum),
and η may be learned, for each tensor or parameter and each step (Meta-SGD, Li et al. 2017; MAML++, Antoniou et al.
2019).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from metacontrast.errors import InputError, check_choice
from metacontrast.maml.checks import check_second_derivative, check_support
from metacontrast.model.head import one_hot
from metacontrast.model.model import Model, apply_head
from metacontrast.types import STEPS, Direction, Inner, Loss, Params, from_named, head_from, head_tensors, to_named


def task_losses(
    outputs: Float[Tensor, "*task image way"],
    labels: Tensor,
    loss: Loss,
    weights: Float[Tensor, "*task image"] | None = None,
) -> Float[Tensor, "*task"]:
    """Mean over a task's images of cross entropy, or of ½ |outputs − one-hot(label)|², or a function's value.

    Args:
        labels: `(*task, image)`.
        weights: of the images in the mean, with sum 1; None weighs them alike.
    """
    if callable(loss):
        return _own_losses(outputs, labels, loss, weights)
    if loss == "cross_entropy":
        each = F.cross_entropy(outputs.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
    else:
        each = (outputs - one_hot(labels, outputs.shape[-1], outputs.dtype)).square().sum(-1) / 2
    return each.mean(-1) if weights is None else (weights * each).sum(-1)


def _own_losses(
    outputs: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor], weights: Tensor | None
) -> Tensor:
    if weights is not None:
        raise InputError("images cannot be weighted under a loss that is a function: use loss='cross_entropy'")
    if outputs.ndim == 3:
        return torch.stack([_own_losses(*task, loss, None) for task in zip(outputs, labels, strict=True)])
    value = loss(outputs, labels)
    if not isinstance(value, Tensor) or value.ndim:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(f"the loss returns {found} for one task, not a scalar tensor: take its mean over the images")
    if not value.is_floating_point():
        raise InputError(f"the loss is {value.dtype}, which has no least value to go to: return a real number")
    return value


def adapt(
    model: Model,
    params: Params,
    support_x: Tensor,
    support_y: Tensor,
    inner: Inner,
    weights: Float[Tensor, "*task support"] | None = None,
) -> Params:
    """Run the inner loop: `inner.steps` gradient steps on the support set of one task, or of each task of a batch.

    Differentiable in `params` where these require a gradient, as `inner.order` says.

    Args:
        model, params: the model and its parameters before adaptation.
        support_x: images, `(*task, image, channel, height, width)`.
        support_y: labels, `(*task, image)`.
        inner: settings of the inner loop.
        weights: of the support images in the loss, with sum 1; None weighs them alike.

    Returns:
        Parameters with a leading task axis where the support set has one; an encoder that does not move has none.

    Raises:
        InputError: labels do not fit the images or the model's ways, or nothing may move.
    """
    check_support(model, params, support_x, support_y, inner.scope, inner.loss)
    if weights is not None and weights.shape != support_y.shape:
        shapes = f"{tuple(weights.shape)}, but labels {tuple(support_y.shape)}"
        raise InputError(f"weights of the support images have shape {shapes}: give one for each image")
    if weights is not None and weights.is_cpu and ((weights.sum(-1) - 1).abs() > 1e-3).any():
        raise InputError("weights of the support images do not have the sum 1: divide them by their sum")
    return last(trajectory(model, params, support_x, support_y, inner, weights))


def last(steps: Iterator[Params]) -> Params:
    """The end of a trajectory."""
    return reduce(lambda _, after: after, steps)


Pullback = Callable[..., Sequence[Tensor]]
"""Map from a cotangent of a value to those of some tensors; without one, that of a scalar, from 1."""
VJP = Callable[[Callable[..., tuple[Tensor, Any]], Sequence[Tensor], bool], tuple[Tensor, Any, Pullback]]
"""Of a function that returns a value and extras: both at some tensors, and the pullback of the value. The last argument
says whether the result is to be differentiated again.
"""


def autograd_vjp(
    function: Callable[..., tuple[Tensor, Any]], at: Sequence[Tensor], second: bool
) -> tuple[Tensor, Any, Pullback]:
    """`VJP` by `torch.autograd`, at aliases: a tensor computed from another one counts as a variable of its own."""
    asked, second = second, second and any(t.requires_grad for t in at)
    with torch.enable_grad():
        aliases = [t.view_as(t) if second and t.requires_grad else t.detach().requires_grad_() for t in at]
        value, extras = function(*aliases)

    def pull(cotangent: Tensor | None = None) -> Sequence[Tensor]:
        graph = second or (asked and cotangent is not None and cotangent.requires_grad)
        return gradients(value, aliases, cotangent, create_graph=graph)

    return value if second else value.detach(), extras, pull


def gradients(
    value: Tensor,
    at: Sequence[Tensor],
    cotangent: Tensor | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool = False,
) -> Sequence[Tensor]:
    """`torch.autograd.grad`, zeros included; an `InputError` says what an encoder or a loss must change."""
    kept = create_graph or retain_graph
    try:
        return torch.autograd.grad(value, at, cotangent, kept, create_graph, materialize_grads=True)
    except RuntimeError as error:
        reason = next((line for part, line in _NO_GRADIENT.items() if part in str(error)), None)
        if reason is None:
            raise
        raise InputError(reason.format(error)) from error


_COMPILED = "a compiled encoder has no second derivative: use order='first', or the module that was compiled"
_NO_GRADIENT = {
    "is not implemented": "order='second' needs a second derivative that PyTorch lacks ({}): use order='first', or for "
    "attention torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around the call",
    "donated buffers": _COMPILED,
    "does not currently support double backward": _COMPILED,
    "does not require grad": "the loss does not depend on the parameters as far as PyTorch can tell: the encoder, the "
    "loss or the direction runs under torch.no_grad() or detaches, take that out",
}
"""What a part of PyTorch's message means for an encoder or a loss."""


def transform_vjp(
    function: Callable[..., tuple[Tensor, Any]], at: Sequence[Tensor], second: bool
) -> tuple[Tensor, Any, Pullback]:
    """`VJP` as a `torch.func` transform, which `torch.compile` can follow."""
    value, vjp, extras = torch.func.vjp(function, *at, has_aux=True)  # pyright: ignore[reportAssignmentType]

    def pull(cotangent: Tensor | None = None) -> Sequence[Tensor]:
        found = vjp(torch.ones_like(value) if cotangent is None else cotangent)
        return found if second else [t.detach() for t in found]

    return value if second else value.detach(), extras, pull


def trajectory(
    model: Model,
    params: Params,
    support_x: Tensor,
    support_y: Tensor,
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
    model.try_encoder(params.encoder, support_x[0])
    params = model.start(params, support_x, support_y)
    yield params
    second, standing = inner.order == "second", 0 if params.step_norms else standing_steps(model, inner)

    def encode(*tensors: Tensor) -> tuple[Tensor, tuple[()]]:
        return model.task_features(dict(zip(params.encoder, tensors, strict=True)), support_x), ()

    def loss(features: Tensor, *head: Tensor) -> tuple[Tensor, tuple[()]]:
        return task_losses(apply_head(head_from(head), features), support_y, inner.loss, weights).sum(), ()

    features, pull, memories = None, None, [None] * len(support_y)
    for step in range(inner.steps):
        if features is None and standing == inner.steps:
            with torch.set_grad_enabled(second and torch.is_grad_enabled()):
                features, _ = encode(*params.encoder.values())
        elif features is None:
            params = params._replace(encoder=model.for_tasks(params.encoder, len(support_y)))
            features, _, pull = vjp(encode, list(params.encoder.values()), second)
            if second and not model.knows_layers:
                check_second_derivative(features, params.encoder.values())
        value, _, pull_loss = vjp(loss, [features, *head_tensors(params.head)], second)
        if second and callable(inner.loss) and not torch.compiler.is_compiling():
            check_second_derivative(value, (features, *head_tensors(params.head)))
        at_features, *at_head = pull_loss()
        at_encoder = []
        if pull is not None and step >= standing:
            at_encoder, features = pull(at_features), None
        gradient = _named_gradient(params, at_encoder, at_head if inner.scope != "encoder" else [])
        if inner.direction is not None:
            gradient, memories = _directions(inner.direction, gradient, memories)
        params = _use_step_norms(model, _descend(params, gradient, step, inner.lr), step + 1)
        yield params


def _directions(
    direction: Direction, gradient: Mapping[str, Tensor], memories: Sequence[Any]
) -> tuple[dict[str, Tensor], list[Any]]:
    """Every task's direction, by a function of one task, and what it remembers."""
    tasks = [{name: t[task] for name, t in gradient.items()} for task in range(len(memories))]
    found = list(map(direction, tasks, memories))
    if not all(isinstance(each, tuple) and len(each) == 2 for each in found):
        raise InputError("the direction returns something else than a pair: return the direction and what it remembers")
    ways, memories = zip(*found, strict=True)
    for name, tensor in tasks[0].items():
        if any(name not in way or way[name].shape != tensor.shape for way in ways):
            raise InputError(f"the direction has no {name} of shape {tuple(tensor.shape)}: give one like the gradient")
    return {name: torch.stack([way[name] for way in ways]) for name in gradient}, list(memories)


def standing_steps(model: Model, inner: Inner) -> int:
    """How many steps from the first on leave the encoder where it is."""
    if model.is_frozen or inner.scope == "head":
        return inner.steps
    if inner.direction is not None or model.head != "zeroed":
        return 0
    return inner.steps if inner.scope == "encoder" else min(inner.steps, 1)


def _use_step_norms(model: Model, params: Params, step: int) -> Params:
    """The encoder with the norms that belong to it after this number of steps; later ones have the last one's."""
    norms = {name: t[min(step, len(t)) - 1] for name, t in params.step_norms.items()}
    if norms and model.has_task_axis(params.encoder):
        norms = model.for_tasks(norms, len(params.head.weight))
    return params._replace(encoder=params.encoder | norms)


def _named_gradient(params: Params, at_encoder: Sequence[Tensor], at_head: Sequence[Tensor]) -> dict[str, Tensor]:
    """The gradient by name, of the parts that move; norms that belong to a step do not."""
    pairs = zip(params.encoder, at_encoder, strict=False)
    encoder = {f"encoder.{name}": g for name, g in pairs if name not in params.step_norms}
    return encoder | dict(zip(("head.weight", "head.bias"), at_head, strict=False))


def _descend(params: Params, gradient: Mapping[str, Tensor], step: int, lr: float) -> Params:
    """θ − η g for every tensor that has a gradient, η learned or the same for all."""
    moved = to_named(params)
    for name, part in gradient.items():
        rates = params.rates.get(name)
        rate = lr if rates is None else rates[min(step, len(rates) - 1)]
        moved[name] = moved[name] - rate * part
    return from_named(params, moved)


def learned_rates(
    model: Model, params: Params, inner: Inner, per: Literal["tensor", "parameter"] = "tensor", steps: int | None = None
) -> Params:
    """Add learned inner learning rates to the parameters, all equal to `inner.lr` at the start (Meta-SGD, MAML++).

    Args:
        per: one rate per `tensor`, with separate rates for weights and biases, or one per single `parameter`
            (Meta-SGD). The rows of a head that does not know the classes share their rates.
        steps: number of steps with their own rates; later steps use the last one. None: `inner.steps`.

    Returns:
        Parameters whose `rates`, by flat name such as `encoder.0.weight` or `head.bias`, have shape `(step, ...)`.
    """
    check_choice("per", per, ("tensor", "parameter"))
    count = max(1, inner.steps) if steps is None else steps
    if count < 1:
        raise InputError(f"steps={steps}, but rates need 1 or more")
    rates = {}
    for name, tensor in to_named(params._replace(rates={})).items():
        rows = tensor.shape if model.head == "learned" or not name.startswith("head") else (1, *tensor.shape[1:])
        shape = rows if per == "parameter" else ()
        rates[name] = torch.full((count, *shape), inner.lr, dtype=tensor.dtype, device=tensor.device)
    return params._replace(rates=rates)


def learned_step_norms(model: Model, params: Params, inner: Inner) -> Params:
    """The same parameters with batch-norm weights and biases that are learned separately for each number of steps.

    Before the first step the encoder's own are in use; all start as copies of these. The inner loop leaves them alone.

    Returns:
        Parameters whose `extra`, by names such as `steps.body.1.weight`, have shape `(step, channel)`.
    """
    norms = (f"{name}.{part}".lstrip(".") for name in model.norm_names for part in ("weight", "bias"))
    own = {STEPS + name: params.encoder[name] for name in norms if name in params.encoder}
    copies = {name: t.expand(max(1, inner.steps), *t.shape).clone() for name, t in own.items()}
    return params._replace(extra=params.extra | copies)
