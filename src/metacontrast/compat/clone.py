"""Modules whose parameters are functions of another module's parameters.

    clone:    θ' = θ          a gradient with respect to θ' goes on to θ
    replace:  θ' ← θ' − η g   and so does one with respect to the new θ'

A module keeps its parameters in plain dictionaries, so any tensor can stand in a parameter's place.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def clone_module(module: AnyModule) -> AnyModule:
    """A copy of a module and all modules in it, with differentiable clones in the place of parameters.

    What is shared inside the original, a tensor or a module, is shared inside the copy. Buffers that need no gradient
    (running averages) are the original's own, and so are attributes of other kinds (numbers, lists, hooks).
    """
    return _clone(module, {})


def replace_parameters(module: nn.Module, replacements: Mapping[Tensor, Tensor]) -> None:
    """Put other tensors in the place of parameters, in `module` itself; every parameter must have its replacement."""
    for each in module.modules():
        parameters: dict[str, Any] = each._parameters
        parameters.update({name: replacements[old] for name, old in parameters.items() if old is not None})
        _list_parameters_again(each)


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
