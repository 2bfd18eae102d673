"""A model is an encoder and a rule for its head; the numbers live outside it, in `Params`."""

import copy
import threading
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from metacontrast.errors import InputError
from metacontrast.model import normalization
from metacontrast.model.fusion import fuse, runs_fused, takes_tasks
from metacontrast.model.head import HeadKind, check_ways, class_means, draw_head, prototype_head, repeat_head
from metacontrast.model.normalization import AnyNorm
from metacontrast.types import Head, Params


@dataclass(frozen=True, eq=False)
class Model:
    """f(x) = W φ(x) + b as a pure function of explicit parameters.

    The encoder is copied; batch norms inside the copy are replaced by ones that use the task's own statistics (see
    `normalization`; not under the policy `running`), and it is put in evaluation mode, so that dropout is off.

    Safe to use from several threads at once.

    Parameters of the encoder that do not require a gradient are frozen: they stay as they are in the copy and are no
    part of `Params`.

    Args:
        encoder: any module from images `(batch, channel, height, width)` to features `(batch, feature)`.
        ways: classes per task.
        feature_size: length of a feature vector; needed when the encoder has no attribute `feature_size`.
        head: how a task's head starts, see `metacontrast.model.head`.
        head_bias: whether the head has a bias (the released code has, the paper's equations have not).
        norm: whose statistics normalize the query examples.
        fused: whether blocks of layers may run as one on a CPU, see `fusion`; the numbers are the same.
    """

    encoder: nn.Module
    ways: int
    feature_size: int = 0
    head: HeadKind = "learned"
    head_bias: bool = True
    norm: AnyNorm = "transductive"
    fused: bool = True
    _own: "_PerThread" = field(init=False, repr=False)
    _trained: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        encoder = normalization.prepare(copy.deepcopy(self.encoder), self.norm).eval()
        trained = self._trained or tuple(name for name, p in encoder.named_parameters() if p.requires_grad)
        encoder.requires_grad_(False)
        size = self.feature_size or getattr(encoder, "feature_size", 0)
        if not isinstance(size, int) or size < 1:
            raise InputError("the encoder does not say how long its features are: pass feature_size=...")
        if self.ways < 2:
            raise InputError(f"ways={self.ways}, but a task needs at least 2 classes")
        object.__setattr__(self, "encoder", encoder)
        object.__setattr__(self, "_trained", trained)
        object.__setattr__(self, "feature_size", size)
        object.__setattr__(self, "_own", _PerThread(encoder, self.fused))

    def init(self, generator: torch.Generator, head_init_scale: float = 1.0) -> Params:
        """Starting parameters.

        Built-in encoders draw theirs from `generator`; any other module starts from the values that it came with.
        `head_init_scale` multiplies the head's random start: 1 is the paper's random initialization, 0 its zero
        initialization. A zeroed head is 0 whatever the scale.
        """
        draw = getattr(self.encoder, "draw_parameters", None)
        if draw is not None:
            draw(generator)
        rows = {"shared": 1, "prototype": 0}.get(self.head, self.ways)
        scale = 0.0 if self.head == "zeroed" else head_init_scale
        bias = self.head_bias or self.head == "prototype"
        own = dict(self.encoder.named_parameters())
        encoder = {name: own[name].detach().clone() for name in self._trained}
        head = draw_head(rows, self.feature_size, bias, scale, generator)
        like = next((p for p in own.values() if p.is_floating_point()), head.weight)
        return Params(encoder, Head(head.weight.to(like), None if head.bias is None else head.bias.to(like)))

    def empty_params(self) -> Params:
        """Parameters of the right structure and shapes, for a file to be read into."""
        return self.init(torch.Generator())

    def with_ways(self, ways: int) -> "Model":
        """The same model for tasks of another number of classes."""
        return replace(self, ways=ways)

    def with_norm(self, norm: AnyNorm) -> "Model":
        """The same model under another normalization policy."""
        return replace(self, norm=norm)

    def to(self, device: torch.device | str) -> "Model":
        """The same model with the encoder's own buffers on `device`."""
        return replace(self, encoder=copy.deepcopy(self.encoder).to(device))

    def runs_abreast(self, images: Tensor) -> bool:
        """Whether `features` takes an encoder whose parameters have a leading axis for tasks, on such images."""
        return self.fused and self._own.takes_tasks and runs_fused(images)

    def features(
        self,
        encoder: dict[str, Tensor],
        images: Float[Tensor, "image channel height width"],
        reference: int = 0,
        tasks: int = 1,
    ) -> Float[Tensor, "image feature"]:
        """φ(x) of `tasks` tasks of equal size, one after the other.

        Batch norms take their statistics from the first `reference` images of each task, or from all if 0.
        """
        if self.fused and images.ndim == 4 and runs_fused(images):
            images = channels_last(images)
        own = self._own
        buffers = dict.fromkeys(own.task_buffers, torch.empty(tasks, reference, 0))
        found = functional_call(own.encoder, (encoder, buffers), (images,))
        if not isinstance(found, Tensor) or found.shape != (len(images), self.feature_size):
            raise InputError(_not_features(found, len(images), self.feature_size))
        return found

    def query_features(
        self,
        encoder: dict[str, Tensor],
        support_x: Float[Tensor, "support channel height width"],
        query_x: Float[Tensor, "query channel height width"],
    ) -> Float[Tensor, "query feature"]:
        """φ(q) under the model's normalization policy."""
        if self.norm != "inductive":
            return self.features(encoder, query_x)
        reference = len(support_x)
        return self.features(encoder, torch.cat([support_x, query_x]), reference)[reference:]

    def logits(self, params: Params, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image way"]:
        """W φ(x) + b for the support images, normalized by one another."""
        return apply_head(params.head, self.features(params.encoder, images))

    def query_logits(
        self,
        params: Params,
        support_x: Float[Tensor, "support channel height width"],
        query_x: Float[Tensor, "query channel height width"],
    ) -> Float[Tensor, "query way"]:
        """W φ(q) + b for query images under the model's normalization policy."""
        return apply_head(params.head, self.query_features(params.encoder, support_x, query_x))

    def start(
        self,
        params: Params,
        support_x: Float[Tensor, "support channel height width"],
        support_y: Int[Tensor, " support"],
    ) -> Params:
        """The parameters from which a task's inner loop starts: the head is repeated or built from the support set."""
        encoder, head = params
        if self.head == "shared" and len(head.weight) == 1:
            return Params(encoder, repeat_head(head, self.ways))
        if self.head == "prototype" and len(head.weight) == 0:
            return Params(encoder, prototype_head(class_means(self.features(encoder, support_x), support_y, self.ways)))
        check_ways(self.head, len(head.weight), self.ways)
        return params


class _PerThread(threading.local):
    """An encoder for every thread: `functional_call` swaps tensors in and out of the module that it calls."""

    def __init__(self, encoder: nn.Module, fused: bool):
        self.fused = fused
        own = copy.deepcopy(encoder)
        self.encoder = fuse(own) if fused else own
        self.takes_tasks = takes_tasks(self.encoder)
        self.task_buffers = normalization.task_buffer_names(self.encoder)

    def __reduce__(self) -> tuple[type["_PerThread"], tuple[nn.Module, bool]]:
        return _PerThread, (self.encoder, self.fused)


def channels_last(
    images: Float[Tensor, "image channel height width"],
) -> Float[Tensor, "image channel height width"]:
    """The same images in the memory order image, height, width, channel, which a single channel does not hide."""
    return images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def apply_head(head: Head, features: Float[Tensor, "image feature"]) -> Float[Tensor, "image way"]:
    """W φ + b."""
    return torch.nn.functional.linear(features, head.weight, head.bias)


def _not_features(found: object, images: int, size: int) -> str:
    """What an encoder returned in place of features, and what to do about it."""
    if not isinstance(found, Tensor):
        return (
            f"the encoder returns a {type(found).__name__}, not a tensor: wrap it in a module that picks the features"
        )
    if found.ndim == 2 and len(found) == images:
        return f"the encoder's features have length {found.shape[1]}, not feature_size={size}: pass that length"
    wanted = f"returns {tuple(found.shape)} for {images} images, not ({images}, {size})"
    return f"the encoder {wanted}: end it in a layer that flattens, such as nn.Flatten()"
