"""Errors in the user's tasks and encoders, one line each and once per call, not at every inner step.

The values of labels are looked at only where they lie on the CPU: on a GPU that would make the program wait for it.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from metacontrast.errors import InputError
from metacontrast.model.encoder_checks import nodes_behind
from metacontrast.model.model import Model
from metacontrast.types import Episode, Inner, Params, to_named


def check_tasks(model: Model, params: Params, episodes: Episode, scope: str, losses: tuple[object, object]) -> None:
    """Raise `InputError` for tasks, one or a batch, whose outer gradient cannot be taken.

    Args:
        losses: of the support and the query set; labels are classes unless it is a function.
    """
    check_support(model, params, episodes.support_x, episodes.support_y, scope, losses[0])
    check_labels("query", episodes.query_x, episodes.query_y, model.ways, losses[1])
    if episodes.support_y.shape[:-1] != episodes.query_y.shape[:-1]:
        raise InputError(
            f"{len(episodes.support_y)} tasks have support sets and {len(episodes.query_y)} query sets: give both"
        )
    if scope == "encoder" and model.head in ("zeroed", "shared"):
        raise InputError(
            f"scope='encoder' leaves the rows of a {model.head} head alike, and nothing is learned: use head='learned' "
            "or scope='all'"
        )
    if not params.encoder and not params.rates and not params.extra and model.head in ("zeroed", "prototype"):
        fixed = "built from prototypes" if model.head == "prototype" else "zero"
        raise InputError(f"nothing is learned: the encoder is frozen and the head is {fixed}")


def check_support(model: Model, params: Params, support_x: Tensor, support_y: Tensor, scope: str, loss: object) -> None:
    """Raise `InputError` for support sets that cannot be adapted to."""
    check_labels("support", support_x, support_y, model.ways, loss)
    averages = model.head in ("prototype", "cosine")
    if averages and support_y.is_floating_point():
        raise InputError(
            f"head={model.head!r} averages the images of a class, and labels are numbers: use another head"
        )
    if averages and support_y.is_cpu and (F.one_hot(support_y, model.ways).sum(-2) == 0).any():
        raise InputError(f"a support set lacks some of its {model.ways} classes, but head={model.head!r} averages each")
    check_params(model, params, scope)


def check_batch(episodes: Episode) -> None:
    """Raise `InputError` unless the tasks are stacked along a leading axis."""
    if episodes.support_y.ndim != 2 or episodes.query_y.ndim != 2:
        raise InputError(
            f"support labels of shape {tuple(episodes.support_y.shape)} are not (task, image): stack the tasks, or "
            "give every tensor of a single one a leading axis, as in tensor[None]"
        )


def check_params(model: Model, params: Params, scope: str) -> None:
    """Raise `InputError` for parameters that are not the model's, or that an inner loop cannot adapt."""
    if strange := set(model.trained) ^ set(params.encoder):
        name = min(strange)
        problem = "lack the encoder's" if name in model.trained else "have a tensor that the encoder does not train,"
        raise InputError(
            f"the parameters {problem} {name}: take those of model.init(...); what is not to be trained is frozen by "
            "requires_grad_(False) before the model is made"
        )
    if model.are_of_several_tasks(params):
        raise InputError("the parameters are those of several adapted tasks: start from the parameters before adapt")
    if scope == "encoder" and not params.encoder:
        raise InputError("scope='encoder', but the encoder is frozen: use scope='head'")
    check_rates(model, params)
    if params.step_norms and (scope == "head" or not params.encoder):
        raise InputError("norms of their own after every inner step need an encoder that adapts: use scope='all'")
    if torch.is_inference_mode_enabled():
        raise InputError("inner steps need gradients, which torch.inference_mode() rules out: use torch.no_grad()")


def check_method(
    name: str, model: Model, heads: Sequence[str], inner: Inner | None = None, params: Params | None = None
) -> None:
    """Raise `InputError` for a model or an inner loop that a method's gradient is not for.

    Args:
        heads: kinds of head that the model may have.
        inner: an inner loop that needs a step.
        params: what an inner loop of plain gradient descent starts from, with one loss and one learning rate.
    """
    if model.head not in heads:
        raise InputError(f"{name} needs a model with head={' or '.join(heads)}, not {model.head}")
    if params is not None:
        check_real(name, params)
    if inner is not None and inner.steps < 1:
        raise InputError(f"{name} needs an inner loop of 1 step or more, not {inner.steps}")
    if inner is not None and params is not None and (not inner.is_plain or params.rates or params.step_norms):
        raise InputError(
            f"{name} takes plain gradient descent on one loss: leave out query_loss, loss_weights, direction, learned "
            "rates and norms of their own after every inner step"
        )


def check_real(what: str, params: Params) -> None:
    """Raise `InputError` for parameters that are complex numbers."""
    if name := next((name for name, tensor in params.encoder.items() if tensor.is_complex()), None):
        raise InputError(f"{what} is for real parameters, but the encoder's {name} is complex: take view_as_real of it")


def check_second_derivative(value: Tensor, made_from: Iterable[Tensor]) -> None:
    """Raise `InputError` for a value made by a function whose second derivative PyTorch leaves out or gets wrong.

    Args:
        value: features or a loss.
        made_from: where to stop: the tensors that the value is differentiated by.
    """
    for node in nodes_behind(value, {tensor.grad_fn for tensor in made_from}):
        if node.name() == "WeightNormInterfaceBackward0":
            raise InputError(
                "the encoder has a weight_norm, whose second derivative is wrong in PyTorch: take first order, or "
                "remove_parametrizations from it"
            )
        backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
        if getattr(backward, "__code__", None) is _ONCE:
            raise InputError(
                "order='second' (or imaml) needs a second derivative, and the encoder or the loss has an autograd "
                "function that is marked once_differentiable: use order='first'"
            )


_ONCE = once_differentiable(len).__code__


def check_rates(model: Model, params: Params) -> None:
    """Raise `InputError` for inner rates that belong to no parameter, or to a head of another number of classes."""
    named = to_named(params._replace(rates={}, extra={})) if params.rates else {}
    for name, rates in params.rates.items():
        if name not in named:
            raise InputError(f"rates has {name!r}, which is no parameter: names are such as {next(iter(named))!r}")
        if rates.ndim == 0 or len(rates) == 0:
            raise InputError(f"the rates of {name} have shape {tuple(rates.shape)}: give (step,) or (step, ...)")
        sizes = zip(reversed(rates.shape[1:]), reversed(named[name].shape), strict=False)
        if name.startswith("encoder.") and (
            rates.ndim - 1 > named[name].ndim or any(size not in (1, wanted) for size, wanted in sizes)
        ):
            raise InputError(
                f"the rates of {name} have shape {tuple(rates.shape)}, but after their first axis, of steps, they must "
                f"fit {tuple(named[name].shape)}"
            )
    for name in ("head.weight", "head.bias"):
        rates = params.rates.get(name)
        rows = 1 if rates is None or rates.ndim == 1 else rates.shape[1]
        if rows not in (1, model.ways):
            raise InputError(
                f"inner rates were learned for a head of {rows} classes, not {model.ways}: take tasks of {rows}, or "
                "train with head='zeroed', whose rates serve any number"
            )


def check_labels(name: str, images: Tensor, labels: Tensor, ways: int, loss: object = "cross_entropy") -> None:
    """Raise `InputError` unless there is for every image a whole number from 0 to `ways` − 1.

    Args:
        loss: a function may take any number for an image.
    """
    if not (isinstance(images, Tensor) and isinstance(labels, Tensor)):
        raise InputError(f"the {name} set is not of tensors: convert arrays by torch.from_numpy")
    if images.shape[: labels.ndim] != labels.shape:
        raise InputError(
            f"{name} images of shape {tuple(images.shape)} have labels of shape {tuple(labels.shape)}: give each one"
        )
    if not labels.numel():
        raise InputError(f"the {name} set is empty: give at least one image")
    if callable(loss):
        if labels.ndim == 2 == images.ndim and labels.shape[1] == 1:
            raise InputError(
                f"{name} labels of shape {tuple(labels.shape)} would be one-image tasks: give (image,), as y[:, 0]"
            )
        return
    if labels.dtype != torch.int64:
        raise InputError(f"{name} labels are {labels.dtype}, but must be torch.int64: pass labels.long()")
    if not labels.is_cpu:
        return
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= ways:
        raise InputError(
            f"{name} labels run from {least} to {most}, but ways={ways} needs 0 to {ways - 1}: renumber the classes"
        )
