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

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metacontrast.compat.clone import clone_module, replace_parameters
from metacontrast.errors import InputError


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
        gradients = _gradients(loss, named, second_order)
        still = [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]
        if not _either(allow_nograd, self.allow_nograd):
            _refuse([name for name in still if not named[name].requires_grad], "is frozen", "allow_nograd")
        if not _either(allow_unused, self.allow_unused):
            _refuse([name for name in still if named[name].requires_grad], "is not part of the loss", "allow_unused")
        moved = zip(named.values(), gradients, strict=True)
        replace_parameters(self.module, {t: t if g is None else t - self.lr * g for t, g in moved})


def _gradients(loss: Tensor, named: Mapping[str, Tensor], create_graph: bool) -> list[Tensor | None]:
    """The gradient of `loss` for every parameter; None for those that are frozen or have no part in it."""
    moving = [parameter for parameter in named.values() if parameter.requires_grad]
    found = iter(torch.autograd.grad(loss, moving, create_graph=create_graph, allow_unused=True))
    return [next(found) if parameter.requires_grad else None for parameter in named.values()]


def _refuse(names: list[str], reason: str, switch: str) -> None:
    if names:
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise InputError(f"parameter {names[0]!r}{others} {reason}: pass {switch}=True to leave it as it is")


def _either(given: bool | None, otherwise: bool) -> bool:
    return otherwise if given is None else given
