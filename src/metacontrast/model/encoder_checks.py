"""What an encoder must be, and one line for one that is not: a module that can be copied, from images to features."""

import copy
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import functional as F
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from metacontrast.errors import InputError, first_line


def copy_encoder(encoder: nn.Module) -> nn.Module:
    """A copy of an encoder from elsewhere; `InputError` where it has none, or takes no other parameters."""
    if not isinstance(encoder, nn.Module):
        raise InputError(f"the encoder is a {type(encoder).__name__}, not a torch.nn.Module: wrap it in one")
    if any(isinstance(each, torch.jit.ScriptModule) for each in encoder.modules()):
        raise InputError(
            "the encoder is compiled by TorchScript, which takes no other parameters: give its Python module"
        )
    if any(isinstance(module, nn.DataParallel) for module in encoder.modules()):
        raise InputError("the encoder is in nn.DataParallel, which takes no other parameters: give its .module")
    if any(map(is_lazy, (*encoder.parameters(), *encoder.buffers()))):
        raise InputError("the encoder has lazy layers, whose shapes are not known yet: call it once on some images")
    for name, parameter in encoder.named_parameters():
        if parameter._backward_hooks:
            raise InputError(f"the encoder's {name} has a hook on its gradient, which a copy does not have: remove it")
    if name := _bound_function(encoder):
        raise InputError(
            f"the encoder holds a function ({name}) that uses the encoder itself, and would use the original after it "
            "is copied: make it a method of the module's class"
        )
    try:
        copied = copy.deepcopy(encoder)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"the encoder cannot be copied ({first_line(error)}): use torch.nn.utils.parametrizations "
            "in place of the older weight_norm, and keep what cannot be copied out of the module"
        ) from error
    for module in copied.modules():
        if getattr(module, "inplace", False) is True:
            vars(module)["inplace"] = False  # the same numbers, and the images that are given stay as they are
    return copied


def _bound_function(encoder: nn.Module) -> str:
    """The name of a function, held by some module, that refers to a module or tensor of the encoder; else nothing."""
    own = {id(each) for each in (*encoder.modules(), *encoder.parameters(), *encoder.buffers())}
    seen: set[int] = set()
    held = (each for module in encoder.modules() for each in _functions(vars(module), seen))
    return next((each.__qualname__ for each in held if any(id(value) in own for value in _references(each))), "")


def _functions(held: Any, seen: set[int]) -> Iterator[FunctionType]:
    """The functions in a module's attributes, also in partial functions and in collections that were not `seen`."""
    if isinstance(held, FunctionType):
        yield held
    elif isinstance(held, partial):
        yield from _functions(held.func, seen)
    elif isinstance(held, Mapping | list | tuple | set) and id(held) not in seen:
        seen.add(id(held))
        for each in held.values() if isinstance(held, Mapping) else held:
            yield from _functions(each, seen)


def _references(function: FunctionType) -> Iterator[object]:
    """What a function refers to besides its arguments."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from (function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__)


_COMPUTES_AGAIN = (
    "the encoder computes a part again in the backward pass (torch.utils.checkpoint), when its parameters are others: "
    "turn that off"
)


class _Withheld(Tensor):
    """A tensor that stands in a module for one that every call brings along; any use of it is an error."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise InputError(_COMPUTES_AGAIN)


def withhold(module: nn.Module, names: Collection[str]) -> None:
    """Replace parameters and buffers of a module that every call brings along by tensors that cannot be used.

    A layer that computes again in the backward pass would else do so with whatever the module holds by then.
    """
    places = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    stands = {id(tensor): _Withheld(torch.empty(0)) for name, tensor in places if name in names}
    for name, tensor in places:
        if id(tensor) in stands:  # under all its names, so that tied ones stay tied
            parent, _, own = name.rpartition(".")
            layer = module.get_submodule(parent)
            held: dict[str, Any] = layer._parameters if own in layer._parameters else layer._buffers
            held[own] = stands[id(tensor)]


def nodes_behind(end: Tensor, but: Collection[Node | None]) -> Iterator[Node]:
    """The nodes of the autograd graph that `end` was made by, some and what is behind them left out."""
    seen, waiting = set(but), [end.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(following for following, _ in node.next_functions)


class Before(NamedTuple):
    """What there was of autograd graphs before a call of the encoder.

    Args:
        nodes: that made what it was called with.
        leaves: identities of what it was called with.
        clock: above the numbers of all nodes that this thread had made; those of other threads do not compare.
    """

    nodes: Collection[Node | None]
    leaves: Collection[int]
    clock: int


def has_graphs() -> bool:
    """Whether there are autograd graphs to look at: not in `torch.func`, `torch.compile` and inference mode."""
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return not (transformed or torch.is_inference_mode_enabled())


def before_call(given: Collection[Tensor]) -> Before | None:
    """Note the graphs before a call of the encoder with these tensors; None where there are none to look at."""
    if not has_graphs():
        return None
    with torch.enable_grad():
        newest = torch.zeros(0, requires_grad=True).clone().grad_fn
    assert newest is not None
    return Before({t.grad_fn for t in given}, set(map(id, given)), newest._sequence_nr())


def check_graph(features: Tensor, before: Before | None) -> None:
    """Raise `InputError` for features whose graph does not lead to all parameters that they depend on."""
    if before is None:
        return
    for node in nodes_behind(features, before.nodes):
        if node.name() == "CheckpointFunctionBackward":
            raise InputError(_COMPUTES_AGAIN)
        leaf = getattr(node, "variable", None)
        is_hidden = isinstance(leaf, nn.Parameter) and id(leaf) not in before.leaves
        if is_hidden or node._sequence_nr() < before.clock:
            raise InputError(
                "the encoder's features depend on trained values besides its registered parameters (held in a list, "
                "kept from an earlier call, or made in another thread), which would get no gradient: register them and "
                "compute from them in every call, or freeze them by requires_grad_(False)"
            )


def maps_alike(encoder: nn.Module) -> bool:
    """Whether no module of the encoder has backward hooks, which `torch.func.vmap` leaves out."""
    return not any(module._backward_hooks or module._backward_pre_hooks for module in encoder.modules())


class OnlyMappable(TorchFunctionMode):
    """Inside this block an operation that `torch.func.vmap` computes wrongly without an error raises one.

    A tensor that is mapped over says that it requires no gradient: hooks and branches that ask for it are left out.
    Attention, which would then take a path without a gradient, does not take it inside this block.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, unless it is one of these."""
        kwargs = kwargs or {}
        asks = getattr(func, "__self__", None) in _GRAPH_QUESTIONS or func is Tensor.register_hook
        if asks or (func in _EMBEDDINGS and _changes_gradient(func, args, kwargs)):
            raise RuntimeError(f"{func} is not the same under vmap")
        return func(*args, **kwargs)


_GRAPH_QUESTIONS = (Tensor.requires_grad, Tensor.grad_fn, Tensor.is_leaf)
_EMBEDDINGS = {F.embedding: (2, 5), torch.embedding: (2, 3)}
"""The places of `padding_idx` and `scale_grad_by_freq` among their arguments."""


def _changes_gradient(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an embedding leaves a row out of its gradient, or divides it by how often the row is looked up."""
    names = zip(("padding_idx", "scale_grad_by_freq"), _EMBEDDINGS[func], strict=True)
    padding, by_frequency = (args[place] if place < len(args) else kwargs.get(name) for name, place in names)
    return bool(by_frequency) or padding not in (None, -1 if func is torch.embedding else None)


_CLASSIFIER_NAMES = {"fc", "classifier", "head", "heads", "logits", "last_linear"}


def warn_of_a_classifier(encoder: nn.Module, size: int, ways: int) -> None:
    """Warn where an encoder's last layer looks like a classifier's, on which the model would put a second head."""
    leaves = [(name, module) for name, module in encoder.named_modules() if not list(module.children())]
    if not leaves or not isinstance(leaves[-1][1], nn.Linear) or leaves[-1][1].out_features != size:
        return
    name, last = leaves[-1]
    if size in (ways, 1000) or _CLASSIFIER_NAMES & set(name.split(".")):
        warnings.warn(
            f"the encoder ends in the linear layer {name!r} ({last.in_features} to {size}), which looks like a whole "
            f"classifier: to cut it, replace that layer by nn.Identity() and pass feature_size={last.in_features}",
            stacklevel=4,
        )


def not_alike(images: torch.dtype, parameters: torch.dtype) -> str:
    """That images and parameters are of two kinds, and what to do about it."""
    scaled = "" if images.is_floating_point else ", scaled to 0 … 1"
    return f"images are {images}, but the encoder's parameters {parameters}: give images.to({parameters}){scaled}"


def not_features(found: object, images: int, size: int) -> str:
    """What an encoder returned in place of features, and what to do about it."""
    if not isinstance(found, Tensor):
        return (
            f"the encoder returns a {type(found).__name__}, not a tensor: wrap it in a module that picks the features"
        )
    if found.ndim == 2 and len(found) == images:
        return f"the encoder's features have length {found.shape[1]}, not feature_size={size}: pass that length"
    wanted = f"returns {tuple(found.shape)} for {images} images, not ({images}, {size})"
    return f"the encoder {wanted}: end it in a layer that flattens, such as nn.Flatten()"
