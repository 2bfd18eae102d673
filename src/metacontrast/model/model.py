"""A model is an encoder and a rule for its head; the numbers live outside it, in `Params`."""

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metacontrast.errors import InputError
from metacontrast.fields import check_fields
from metacontrast.model import normalization
from metacontrast.model.application import EncoderFunction
from metacontrast.model.encoder_checks import copy_encoder, warn_of_a_classifier
from metacontrast.model.encoders import Encoder, UnitLength
from metacontrast.model.head import (
    BUILT_HEADS,
    HeadKind,
    build_head,
    built_extra,
    check_start,
    draw_head,
    zero_head,
)
from metacontrast.model.normalization import AnyNorm
from metacontrast.types import Head, Params, head_from, head_tensors


@dataclass(frozen=True, eq=False)
class Model:
    """f(x) = W φ(x) + b as a pure function of explicit parameters.

    The encoder is copied; batch norms inside the copy are replaced by ones that use the task's own statistics (see
    `normalization`; not under the policy `running`), and it is put in evaluation mode, so that dropout is off.

    Safe to use from several threads at once.

    Parameters of the encoder that do not require a gradient are frozen: they stay as they are in the copy and are no
    part of `Params`.

    Args:
        encoder: any module from images `(batch, channel, height, width)`, or inputs of another shape `(batch, ...)`, to
            features `(batch, feature)`.
        ways: classes per task; for regression the number of outputs.
        feature_size: length of a feature vector; needed when the encoder has no attribute `feature_size`.
        head: how a task's head starts, see `metacontrast.model.head`.
        head_bias: whether the head has a bias (the released code has, the paper's equations have not).
        norm: whose statistics normalize the query examples.
        fused: whether blocks of layers may run as one kernel on a CPU; results are the same up to rounding.
    """

    encoder: nn.Module
    ways: int
    feature_size: int = 0
    head: HeadKind = "learned"
    head_bias: bool = True
    norm: AnyNorm = "transductive"
    fused: bool = True
    _phi: EncoderFunction = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._check()
        encoder = normalization.prepare(copy_encoder(self.encoder), self.norm)
        encoder.eval()
        if self.head == "cosine" and not isinstance(encoder, UnitLength):
            encoder = UnitLength(encoder)
        size = self.feature_size or getattr(encoder, "feature_size", 0)
        if not isinstance(size, int) or size < 1:
            raise InputError("the encoder does not say how long its features are: pass feature_size=...")
        warn_of_a_classifier(encoder, size, self.ways)
        object.__setattr__(self, "encoder", encoder)
        object.__setattr__(self, "feature_size", size)
        object.__setattr__(self, "_phi", EncoderFunction(encoder, size, self.fused))

    def __repr__(self) -> str:
        """The encoder by its class, and what stands on it."""
        encoder = f"{type(self.encoder).__name__} to {self.feature_size} features"
        return f"Model({encoder}, ways={self.ways}, head={self.head!r}, norm={self.norm!r})"

    def _check(self) -> None:
        check_fields(self)
        if self.ways < 1:
            raise InputError(f"ways={self.ways}, but a model needs 2 classes or more, or 1 output for regression")

    @property
    def trained(self) -> tuple[str, ...]:
        """The names of the encoder's tensors that are learned, which `Params.encoder` holds."""
        return self._phi.trained

    @property
    def is_frozen(self) -> bool:
        """Whether no parameter of the encoder is learned."""
        return not self.trained

    @property
    def knows_layers(self) -> bool:
        """Whether every layer of the encoder is of a known kind, which keeps images apart."""
        return self._phi.keeps_images_apart

    @property
    def norm_names(self) -> tuple[str, ...]:
        """The names of the batch norms in the encoder that use a task's statistics."""
        return tuple(name.removesuffix("tasks").removesuffix(".") for name in self._phi.task_buffers)

    def init(self, generator: torch.Generator, head_init_scale: float = 1.0) -> Params:
        """Starting parameters.

        Built-in encoders draw theirs from `generator`; any other module starts from the values that it came with.
        `head_init_scale` multiplies the head's random start: 1 is the paper's random initialization, 0 its zero
        initialization. A zeroed head is 0 whatever the scale.
        """
        source = self.encoder
        if isinstance(source, Encoder | UnitLength):
            source = copy.deepcopy(source)  # what is frozen in the model's own stays
            source.draw_parameters(generator)
        is_built = self.head in BUILT_HEADS
        rows = 0 if is_built else 1 if self.head == "shared" else self.ways
        scale = 0.0 if self.head == "zeroed" else head_init_scale
        bias = self.head_bias or is_built
        own = dict(source.named_parameters())
        encoder = {name: own[name].detach().clone() for name in self.trained}
        head = draw_head(rows, self.feature_size, bias, scale, generator)
        like = next((p.real for p in own.values() if p.is_floating_point() or p.is_complex()), head.weight)
        extra = {name: t.to(like) for name, t in built_extra(self.head).items()}
        return Params(encoder, head_from([t.to(like) for t in head_tensors(head)]), {}, extra)

    def empty_params(self) -> Params:
        """Parameters of the right structure and shapes, for a file to be read into."""
        return self.init(torch.Generator())

    def with_ways(self, ways: int) -> "Model":
        """The same model for tasks of another number of classes; it shares the encoder."""
        return self._with(ways=ways)

    def with_head(self, head: HeadKind) -> "Model":
        """The same model whose heads start in another way; it shares the encoder, whose features stay as they are."""
        if head == "cosine" and not isinstance(self.encoder, UnitLength):
            raise InputError("head='cosine' needs features of length 1: make the model with it")
        return self._with(head=head)

    def _with(self, **changed: Any) -> "Model":
        """A copy with other fields that the encoder does not depend on."""
        model = copy.copy(self)
        for name, value in changed.items():
            object.__setattr__(model, name, value)
        model._check()
        return model

    def with_norm(self, norm: AnyNorm) -> "Model":
        """The same model under another normalization policy."""
        return replace(self, norm=norm)

    def to(self, device: torch.device | str) -> "Model":
        """The same model with the encoder's own buffers on `device`; itself where they are there."""
        own = (*self.encoder.parameters(), *self.encoder.buffers())
        if torch.device(device).type == "cpu" and all(t.is_cpu for t in own):
            return self
        return replace(self, encoder=copy.deepcopy(self.encoder).to(device))

    def on_features(self) -> "Model":
        """The same head on features that are given in place of images, for where the encoder does not move."""
        return Model(nn.Flatten(), self.ways, self.feature_size, self.head, self.head_bias)

    def batches_tasks(self, images: Tensor, moving: bool) -> bool:
        """Whether the images of several tasks pass through the encoder as one batch, see `EncoderFunction`."""
        return self._phi.batches_tasks(images, moving)

    def for_tasks(self, encoder: dict[str, Tensor], tasks: int) -> dict[str, Tensor]:
        """Expand the encoder's parameters along a new leading task axis, unless they have one; memory is shared."""
        return encoder if self.has_task_axis(encoder) else self._phi.repeated(encoder, tasks)

    def has_task_axis(self, encoder: dict[str, Tensor]) -> bool:
        """Whether the encoder's parameters differ between tasks."""
        return any(t.ndim > self._phi.dimensions[name] for name, t in encoder.items())

    def only_task(self, params: Params) -> Params:
        """Parameters of one task without their task axis."""
        encoder = params.encoder
        if self.has_task_axis(encoder):
            encoder = {name: t[0] for name, t in encoder.items()}
        return params._replace(encoder=encoder, head=head_from([t[0] for t in head_tensors(params.head)]))

    def features(
        self,
        encoder: dict[str, Tensor],
        images: Float[Tensor, "image ..."],
        reference: int = 0,
    ) -> Float[Tensor, "image feature"]:
        """φ(x) of one task's images.

        Batch norms take their statistics from the first `reference` images, or from all if 0.
        """
        return self._phi.features(encoder, images, 1, reference)

    def task_features(
        self,
        encoder: dict[str, Tensor],
        images: Float[Tensor, "task image ..."],
        reference: int = 0,
    ) -> Float[Tensor, "task image feature"]:
        """φ(x) of every task's images; the encoder's parameters may have a leading task axis.

        One batch where `batches_tasks` allows it; else the encoder is mapped over tasks by `torch.func.vmap`, or is
        called for one task after the other if it cannot be, so that images meet only images of their own task.
        """
        moving = self.has_task_axis(encoder)
        if len(images) == 1:
            alone = {name: t[0] for name, t in encoder.items()} if moving else encoder
            return self.features(alone, images[0], reference)[None]
        return self._phi.of_tasks(encoder, images, reference, moving)

    def try_encoder(self, encoder: dict[str, Tensor], images: Float[Tensor, "image ..."]) -> None:
        """Call an encoder of unknown layers with gradients, once in every thread and on two images.

        A later call that uses a value kept from this one is refused; kept from a call without gradients, the value
        would look like a constant.
        """
        if not self.has_task_axis(encoder):
            self._phi.try_once(encoder, images[:2])

    def query_features(
        self,
        encoder: dict[str, Tensor],
        support_x: Float[Tensor, "support ..."],
        query_x: Float[Tensor, "query ..."],
    ) -> Float[Tensor, "query feature"]:
        """φ(q) of one task under the model's normalization policy."""
        return self.query_task_features(encoder, support_x[None], query_x[None])[0]

    def query_task_features(
        self,
        encoder: dict[str, Tensor],
        support_x: Float[Tensor, "task support ..."],
        query_x: Float[Tensor, "task query ..."],
    ) -> Float[Tensor, "task query feature"]:
        """φ(q) of every task under the model's normalization policy; parameters may have a leading task axis."""
        if self.norm != "inductive" or not self._phi.task_buffers:
            return self.task_features(encoder, query_x)
        shots = support_x.shape[1]
        return self.task_features(encoder, torch.cat([support_x, query_x], 1), shots)[:, shots:]

    def logits(self, params: Params, images: Float[Tensor, "image ..."]) -> Float[Tensor, "image way"]:
        """W φ(x) + b for the support images, normalized by one another."""
        self._check_of_one_task(params)
        return apply_head(params.head, self.features(params.encoder, images))

    def query_logits(
        self,
        params: Params,
        support_x: Float[Tensor, "support ..."],
        query_x: Float[Tensor, "query ..."],
    ) -> Float[Tensor, "query way"]:
        """W φ(q) + b for one task's query images under the model's normalization policy."""
        self._check_of_one_task(params)
        return apply_head(params.head, self.query_features(params.encoder, support_x, query_x))

    def are_of_several_tasks(self, params: Params) -> bool:
        """Whether parameters were adapted to a batch of tasks, and have a leading task axis."""
        return params.head.weight.ndim != 2 or self.has_task_axis(params.encoder)

    def _check_of_one_task(self, params: Params) -> None:
        if self.are_of_several_tasks(params):
            raise InputError("the parameters are those of several adapted tasks, the images of one: adapt to that one")

    def start(
        self,
        params: Params,
        support_x: Tensor,
        support_y: Tensor,
    ) -> Params:
        """The parameters from which a task's inner loop starts: the head is repeated or built from the support set.

        With a leading task axis every task has a head of its own; the encoder is the same for all.
        """
        head = params.head
        if support_y.ndim == 1:
            return self.only_task(self.start(params, support_x[None], support_y[None]))
        if self.head in BUILT_HEADS and len(head.weight) == 0:
            features = self.task_features(params.encoder, support_x)
            return params._replace(head=build_head(self.head, features, support_y, self.ways, params.extra))
        if self.head == "shared" and head.weight.ndim == 2 and len(head.weight) == 1:
            head = head_from([t.expand(self.ways, *t.shape[1:]) for t in head_tensors(head)])
        check_start(self.head, head, self.ways)
        if self.head == "zeroed":
            head = zero_head(params, self.ways).head
        tasks = len(support_y)
        return params._replace(head=head_from([t.expand(tasks, *t.shape) for t in head_tensors(head)]))


def apply_head(head: Head, features: Float[Tensor, "*task image feature"]) -> Float[Tensor, "*task image way"]:
    """W φ + b, of one task or of every task."""
    if head.weight.ndim == 2:
        return torch.nn.functional.linear(features, head.weight, head.bias)
    scores = features @ head.weight.mT
    return scores if head.bias is None else scores + head.bias[..., None, :]
