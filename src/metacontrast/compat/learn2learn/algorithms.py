"""MAML around any module and any loss, in the shape that learn2learn gave it.

    learner = maml.clone()
    learner.adapt(support loss)     as often as wanted
    (query loss).backward()         a gradient for maml.parameters()

The step is that of `metacontrast.adapt`, θ' = θ − η g, so the gradient that arrives at `maml.parameters()` is that of
`metacontrast.meta_gradient`. Training that fits the latter (an encoder, a linear head, cross entropy) has more there:
tasks spread over threads, the zeroing trick, any number of classes.

Batch norm is the module's own. In training mode it normalizes by the batch that it sees, support and query images
apart. Every such pass also moves the running averages, which all clones share with `maml.module`: support and query
batches of all tasks, before and after adaptation, in the order of the calls. In evaluation mode it normalizes by them.
"""

from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from metacontrast.errors import InputError
from metacontrast.maml.checks import check_second_derivative


class MAML(nn.Module):
    """A module that can be cloned and adapted so that gradients run back to it.

    Args:
        model: any module; its parameters are what is meta-learned. Also there as `module`.
        lr: step size η of `adapt`.
        first_order: whether the inner gradients count as constants (FOMAML).
        allow_unused: whether parameters that the loss does not depend on are left as they are, rather than an error;
            None is the value of `allow_nograd`.
        allow_nograd: the same for parameters that do not require a gradient.

    Names that are not here are looked up in `module`.

    With w = 1, the support loss w² and a step of 0.1, w' = 0.8; the query loss w'² has the gradient 2 w' (1 − 0.2):

    >>> maml = MAML(nn.Linear(1, 1, bias=False), lr=0.1)
    >>> _ = nn.init.ones_(maml.module.weight)
    >>> learner = maml.clone()
    >>> learner.adapt(learner.weight.square().sum())
    >>> learner.weight.square().sum().backward()
    >>> maml.module.weight.grad
    tensor([[1.2800]])
    """

    module: nn.Module

    def __init__(
        self,
        model: nn.Module,
        lr: float | Tensor,
        first_order: bool = False,
        allow_unused: bool | None = None,
        allow_nograd: bool = False,
    ):
        super().__init__()
        self.module = model
        self.lr = lr
        self.first_order = first_order
        self.allow_nograd = allow_nograd
        self.allow_unused = _either(allow_unused, allow_nograd)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What `module` returns."""
        return self.module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)

    def clone(
        self, first_order: bool | None = None, allow_unused: bool | None = None, allow_nograd: bool | None = None
    ) -> "MAML":
        """A learner whose parameters are differentiable copies of these; running averages are shared."""
        return MAML(
            clone_module(self.module),
            self.lr,
            _either(first_order, self.first_order),
            _either(allow_unused, self.allow_unused),
            _either(allow_nograd, self.allow_nograd),
        )

    def adapt(
        self,
        loss: Tensor,
        first_order: bool | None = None,
        allow_unused: bool | None = None,
        allow_nograd: bool | None = None,
    ) -> None:
        """One gradient step on `loss`, in place; the arguments override those of the constructor once.

        Raises:
            InputError: a parameter cannot be moved (frozen, or not part of the loss) and that is not allowed.
        """
        if not loss.requires_grad:
            raise InputError("the loss depends on no parameter: compute it from the learner, outside torch.no_grad()")
        second_order = not _either(first_order, self.first_order)
        named = dict(self.module.named_parameters())
        moving = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        if second_order:
            check_second_derivative(loss, moving.values())
        found = torch.autograd.grad(loss, list(moving.values()), create_graph=second_order, allow_unused=True)
        gradients = {name: gradient for name, gradient in zip(moving, found, strict=True) if gradient is not None}
        if not _either(allow_nograd, self.allow_nograd):
            _refuse([name for name in named if name not in moving], "is frozen", "allow_nograd")
        if not _either(allow_unused, self.allow_unused):
            _refuse([name for name in moving if name not in gradients], "is not part of the loss", "allow_unused")
        moved = {t: t - self.lr * gradients[name] if name in gradients else t for name, t in named.items()}
        for each in self.module.modules():
            tensors: dict[str, Any]
            for tensors in (each._parameters, each._buffers):  # a buffer may be a parameter, too
                tensors.update({name: moved[old] for name, old in tensors.items() if old in moved})
            _list_parameters_again(each)


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(
        f"learn2learn's {name!r} is not here, only MAML: see the page on migrating for what to use instead"
    )


def _refuse(names: list[str], reason: str, switch: str) -> None:
    if names:
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise InputError(f"parameter {names[0]!r}{others} {reason}: pass {switch}=True to leave it as it is")


def _either(given: bool | None, otherwise: bool) -> bool:
    return otherwise if given is None else given


AnyModule = TypeVar("AnyModule", bound=nn.Module)


def clone_module(module: AnyModule) -> AnyModule:
    """A copy of a module and all modules in it, with differentiable clones in the place of parameters.

    What is shared inside the original, a tensor or a module, is shared inside the copy. Buffers that need no gradient
    (running averages) are the original's own, and so are attributes of other kinds (numbers, lists, hooks).
    """
    return _clone(module, {})


def _clone(part: Any, clones: dict[int, Any]) -> Any:
    """The clone of a module or tensor, made once; `clones` has those that were made, by the original's identity."""
    if id(part) in clones:
        return clones[id(part)]
    if part is None or (isinstance(part, Tensor) and not isinstance(part, nn.Parameter) and not part.requires_grad):
        return part
    clones[id(part)] = clone = part.clone() if isinstance(part, Tensor) else part.__new__(type(part))
    if isinstance(clone, nn.Module):
        clone.__dict__.update(part.__dict__)
        for kind in ("_parameters", "_buffers", "_modules"):
            clone.__dict__[kind] = {name: _clone(each, clones) for name, each in part.__dict__[kind].items()}
        _list_parameters_again(clone)
    return clone


def _list_parameters_again(module: nn.Module) -> None:
    """Recurrent layers hold a second list of their parameters."""
    if isinstance(module, nn.RNNBase):
        module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]
