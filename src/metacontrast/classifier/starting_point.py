"""What a classifier starts from: a meta-trained model, or any encoder, with the kind of images that it sees."""

import copy
import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from metacontrast.classifier.candidates import HeadChoice
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError, check_choice
from metacontrast.files import as_path
from metacontrast.maml.inner import Inner
from metacontrast.methods import METHODS
from metacontrast.model.frozen import freeze
from metacontrast.model.model import Model
from metacontrast.training import sources
from metacontrast.training.run import TrainedRun
from metacontrast.training.sources import Source
from metacontrast.training.start import INNER, format_of
from metacontrast.types import Head, Params, map_params

RIDGE_TEMPERATURE = 0.05
BatchStats = Literal["running", "support"]


@dataclass(frozen=True, eq=False, repr=False)
class StartingPoint:
    """A model before it has seen a class.

    Args:
        name: what messages call it.
        model, params: the model and its parameters; its batch norms use the statistics of the support images
            (`inductive`) or their own running averages (`running`).
        images: what it takes.
        inner: how it adapts unless told otherwise.
        run: the trained run behind it, if there is one.
        source: where its encoder comes from, if it is not of this library.
        head: which head predicts unless told otherwise.
    """

    name: str
    model: Model
    params: Params
    images: ImageFormat
    inner: Inner
    run: TrainedRun | None = None
    source: Source | None = None
    head: HeadChoice = "adapted"

    def __repr__(self) -> str:
        return f"<StartingPoint {self.name}>"

    @property
    def temperature(self) -> float:
        """Of a ridge head's probabilities where no image can be held out: set on tasks of one image a class."""
        return RIDGE_TEMPERATURE

    @property
    def batch_stats(self) -> BatchStats:
        """Which statistics its batch norms use."""
        return "running" if self.model.norm == "running" else "support"

    @property
    def encoder(self) -> nn.Module:
        """The encoder as a module of its own, with the parameters in it."""
        module = copy.deepcopy(self.model.encoder)
        module.load_state_dict(self.params.encoder, strict=False)
        return module

    @cached_property
    def frozen_encoder(self) -> nn.Module:
        """The encoder with its own running averages, as a plain module."""
        probe = torch.randint(256, (3, *self.images.shape), generator=torch.Generator().manual_seed(0))
        return freeze(self.model, self.params.encoder, self.images.to_input(probe.to(torch.uint8))).eval()

    def keeps_features(self, inner: Inner) -> bool:
        """Whether an image's features are the same at every fit, so that they can stand for the image."""
        return self.batch_stats == "running" and inner.scope == "head"

    def params_on(self, device: str) -> Params:
        """The parameters on `device`."""
        return map_params(lambda t: t.to(device), self.params)

    def __deepcopy__(self, memo: dict[int, Any]) -> "StartingPoint":
        """Itself: nothing of it ever changes."""
        return self

    @staticmethod
    def from_encoder(
        encoder: nn.Module,
        images: ImageFormat,
        inner: Inner = INNER,
        feature_size: int = 0,
        batch_stats: BatchStats = "running",
        head: HeadChoice | None = None,
    ) -> "StartingPoint":
        """Any module from images `(batch, channel, height, width)` to features `(batch, feature)`, as it is.

        It is put in evaluation mode, in a copy. A classifier that is saved holds its name and digest: to load it,
        give the same starting point again.

        Args:
            images: what the encoder takes.
            inner: how to adapt it; scope `head` leaves it frozen.
            feature_size: length of a feature vector; found out where the module has no attribute `feature_size`.
            batch_stats: `running` keeps the running averages that its batch norms were trained with; `support` puts
                the statistics of the support images in their place.
            head: which head predicts unless told otherwise; None is `auto` for a frozen encoder, else `adapted`.
        """
        source = Source(type(encoder).__name__, sources.digest_of(encoder), False)
        return from_module(encoder, images, inner, feature_size, batch_stats, source, head)


def from_source(name: str, weights: str | Path | None = None, *, trained: bool = True) -> StartingPoint:
    """The starting point on an encoder of `sources`, frozen and with its running averages.

    One that a user's own function returns is itself, with its inner loop, head and parameters.

    Args:
        weights: a file of safetensors in place of the source's own weights.
        trained: False leaves the weights to be loaded later.
    """
    built = sources.build(name, None if weights is None else as_path(weights), trained=trained)
    digest = built.digest or sources.digest_of(built.encoder)
    source = Source(name, digest, not name.startswith("python:") and weights is None)
    if isinstance(built.made, StartingPoint):
        if weights is not None:
            raise InputError(f"{name} returns a starting point, which has its weights: leave out weights")
        return dataclasses.replace(built.made, name=name, source=None if built.made.run else source)
    return from_module(built.encoder, built.images, INNER, 0, "running", source, "auto")


def from_module(
    encoder: nn.Module,
    images: ImageFormat,
    inner: Inner,
    feature_size: int,
    batch_stats: BatchStats,
    source: Source,
    head: HeadChoice | None,
) -> StartingPoint:
    """The starting point on a module; the arguments are those of `StartingPoint.from_encoder`."""
    check_choice("batch_stats", batch_stats, ("running", "support"))
    size = feature_size or getattr(encoder, "feature_size", 0) or sources.feature_size(encoder, images, source.name)
    norm = "running" if batch_stats == "running" else "inductive"
    model = Model(encoder, ways=2, feature_size=size, head="zeroed", norm=norm)
    frozen: HeadChoice = "auto" if inner.scope == "head" else "adapted"
    return StartingPoint(source.name, model, _own_params(model), images, inner, None, source, head or frozen)


def _own_params(model: Model) -> Params:
    """The encoder's own values, which `Model.init` draws again for encoders of this library, and a head of zeros."""
    own = {name: p.detach().clone() for name, p in model.encoder.named_parameters() if name in model._trained}
    like = next(iter(own.values()), torch.zeros(0))
    return Params(own, Head(like.new_zeros(model.ways, model.feature_size), like.new_zeros(model.ways)))


def from_run(name: str, run: TrainedRun) -> StartingPoint:
    """The starting point that a trained run is."""
    inner = dataclasses.replace(run.config.inner(), order="first", direction=None)
    head = METHODS[run.config.method].predicts
    model = run.model if run.model.norm == "running" else run.model.with_norm("inductive")
    return StartingPoint(name, model, run.params, format_of(run), inner, run, head=head)
