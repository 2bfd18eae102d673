"""How an encoder is applied: as a function of explicit parameters, to the images of one task or of several.

The images of several tasks pass as one batch where all layers are known to keep images apart and to take parameters
with a leading task axis. Any other encoder is mapped over tasks by `torch.func.vmap`, or is called for one task after
the other if it cannot be, so that images meet only images of their own task.
"""

import contextlib
import copy
import threading
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from metacontrast.errors import InputError
from metacontrast.model import normalization
from metacontrast.model.encoder_checks import (
    OnlyMappable,
    before_call,
    check_graph,
    has_graphs,
    maps_alike,
    not_alike,
    not_features,
    withhold,
)
from metacontrast.model.fused.block import channels_last
from metacontrast.model.fused.sequential import fuse, runs_fused, takes_tasks
from metacontrast.model.image_wise import keeps_images_apart

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Convolutions whose second derivative may fail where images of one channel are marked as channels last."""


class EncoderFunction(threading.local):
    """φ(x) with parameters that every call brings along.

    Every thread has its own copy of the encoder, since `functional_call` swaps tensors in and out of the module that
    it calls.

    Args:
        encoder: in evaluation mode, its batch norms replaced (see `normalization`).
        feature_size: length of a feature vector.
        fused: whether blocks of layers may run as one kernel on a CPU.
    """

    def __init__(self, encoder: nn.Module, feature_size: int, fused: bool):
        self.source, self.feature_size, self.fused = encoder, feature_size, fused
        self.trained = tuple(name for name, p in encoder.named_parameters() if p.requires_grad)
        self.can_be_mapped = maps_alike(encoder)  # over tasks by vmap, as far as is known
        self.was_tried = False
        own = copy.deepcopy(encoder)
        self.keeps_images_apart = keeps_images_apart(own)
        self.encoder = fuse(own, may_change=not self.keeps_images_apart) if fused else own
        self.places = _places(self.encoder)
        self.takes_tasks = takes_tasks(self.encoder)
        self.may_reorder = fused and not any(isinstance(each, _TRANSPOSED) for each in own.modules())
        self.task_buffers = normalization.task_buffer_names(self.encoder)
        self.buffers = {}  # of layers of unknown kind, which may change them: every call has a copy
        self.dimensions = {name: p.ndim for name, p in self.encoder.named_parameters()}
        self.frozen = {name: p for name, p in self.encoder.named_parameters() if name not in self.trained}
        if not self.keeps_images_apart:
            wanted = self.places.keys() - set(self.task_buffers)  # not a buffer that is a parameter too
            self.buffers = {name: t for name, t in self.encoder.named_buffers() if name in wanted}
            withhold(self.encoder, {*self.trained, *self.buffers, *self.task_buffers})

    def __reduce__(self) -> tuple[type["EncoderFunction"], tuple[nn.Module, int, bool]]:
        return EncoderFunction, (self.source, self.feature_size, self.fused)

    def batches_tasks(self, images: Tensor, moving: bool) -> bool:
        """Whether the images of several tasks may pass as one batch.

        Only where every layer is known to keep images apart, and, if the encoder is `moving`, to take parameters with
        a leading task axis.

        Args:
            images: of one task or of several.
        """
        if not self.keeps_images_apart:
            return False
        return not moving or (self.fused and self.takes_tasks and runs_fused(images))

    def repeated(self, parameters: dict[str, Tensor], tasks: int) -> dict[str, Tensor]:
        """Expand parameters along a new leading task axis; all tasks share their memory."""
        known = self.keeps_images_apart  # others may ask for the usual memory order, as by view
        return {name: (_kernel_order(t) if known else t).expand(tasks, *t.shape) for name, t in parameters.items()}

    def of_tasks(
        self, parameters: dict[str, Tensor], images: Float[Tensor, "task image ..."], reference: int, moving: bool
    ) -> Float[Tensor, "task image feature"]:
        """φ(x) of every task's images; if the encoder is `moving`, its parameters have a leading task axis."""
        if self.batches_tasks(images, moving):
            frozen = self.frozen if moving else {}
            parameters = parameters | {name: t.expand(len(images), *t.shape) for name, t in frozen.items()}
            found = self.features(parameters, images.flatten(0, 1), len(images), reference)
            return found.unflatten(0, images.shape[:2])
        return self._mapped(parameters, images, reference, moving)

    def _mapped(self, parameters: dict[str, Tensor], images: Tensor, reference: int, moving: bool) -> Tensor:
        def one_task(own: dict[str, Tensor], images: Tensor) -> Tensor:
            return self.features(own, images, 1, reference)

        if self.can_be_mapped:
            before = before_call((*parameters.values(), images))
            try:
                with contextlib.nullcontext() if torch.compiler.is_compiling() else OnlyMappable():
                    if moving:
                        found = torch.func.vmap(one_task)(parameters, images)
                    else:
                        found = torch.func.vmap(partial(one_task, parameters))(images)
            except RuntimeError:  # control flow that depends on values, or an operation without a rule
                pass
            else:
                check_graph(found, before)
                return found
        each = ({name: t[k] for name, t in parameters.items()} if moving else parameters for k in range(len(images)))
        found = torch.stack([one_task(own, its) for own, its in zip(each, images, strict=True)])
        self.can_be_mapped = False
        return found

    def features(
        self, parameters: dict[str, Tensor], images: Float[Tensor, "image ..."], tasks: int, reference: int
    ) -> Float[Tensor, "image feature"]:
        """φ(x) of the images of `tasks` tasks, one after the other.

        Batch norms take a task's statistics from its first `reference` images, or from all if 0.
        """
        kind, before = images.dtype, None
        like = next(iter(parameters.values()), images)
        if not self.keeps_images_apart:  # layers of unknown kind may write to what they are given
            images, parameters = images.clone(), {name: t.clone() for name, t in parameters.items()}
            before = before_call((*parameters.values(), images))
        elif kind != like.dtype:
            raise InputError(not_alike(kind, like.dtype))
        elif name := next((name for name, t in self.frozen.items() if t.dtype != kind), None):
            raise InputError(
                f"the encoder's {name} is {self.frozen[name].dtype} and frozen, but what is given {kind}: make the "
                f"model from encoder.to({kind})"
            )
        elif self.may_reorder and images.ndim == 4 and runs_fused(images):
            images = channels_last(images)
        buffers = {name: t.clone() for name, t in self.buffers.items()}
        buffers |= dict.fromkeys(self.task_buffers, torch.empty(tasks, reference, len(images), 0))
        try:
            given = {place: t for name, t in (parameters | buffers).items() for place in self.places[name]}
            found = functional_call(self.encoder, given, (images,), tie_weights=False)
        except RuntimeError as error:
            if kind.is_floating_point and kind != like.dtype:
                raise InputError(not_alike(kind, like.dtype)) from error
            raise
        if not isinstance(found, Tensor) or found.shape != (len(images), self.feature_size):
            raise InputError(not_features(found, len(images), self.feature_size))
        if not found.is_floating_point():
            raise InputError(f"the encoder's features are {found.dtype}: end it in a layer that returns real numbers")
        if not self.keeps_images_apart:
            check_graph(found, before)
            mixed = found.dtype != like.dtype and like.is_floating_point()
            if parameters and mixed and not torch.is_autocast_enabled(images.device.type):
                raise InputError(f"the encoder returns {found.dtype}, its parameters are {like.dtype}: use one of them")
        return found

    def try_once(self, parameters: dict[str, Tensor], images: Tensor) -> None:
        """Call an encoder of unknown layers with gradients, once in every thread, see `Model.try_encoder`."""
        if self.was_tried or self.keeps_images_apart or not self.trained or not has_graphs():
            return
        self.was_tried = True
        with torch.enable_grad():
            self.features({name: t.detach().requires_grad_() for name, t in parameters.items()}, images, 1, 0)


def _kernel_order(tensor: Tensor) -> Tensor:
    """A convolution's weight in the memory order that its kernels take."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _places(module: nn.Module) -> dict[str, list[str]]:
    """Map the first name of every tensor of a module to all the places where it stands, each once.

    `functional_call` replaces a tied tensor by name, twice where a module is reached in two ways; then it would put
    back the wrong one.
    """
    first: dict[int, str] = {}
    places: dict[str, list[str]] = {}
    seen: set[tuple[int, str]] = set()
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        parent, _, own = name.rpartition(".")
        place = id(module.get_submodule(parent)), own
        if place not in seen:
            seen.add(place)
            places.setdefault(first.setdefault(id(tensor), name), []).append(name)
    return places
