"""Where a training starts in place of random parameters: a model that was trained here, or an encoder from elsewhere.

A start brings its encoder and how images are shown to it (size, filter, polarity, channels and normalization), which no
flag changes. It also brings the inner loop that it was trained with, learned rates included, unless that is asked for
otherwise or set by the method; of a start that was trained by another method only the batch-norm statistics. Images are
resized whole: where a source cuts its own out of a larger square, neither training nor what is trained does.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metacontrast.data.catalog import DATASETS, FOLDER, find_dataset
from metacontrast.data.image_format import ImageFormat
from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError
from metacontrast.files import read_facts
from metacontrast.methods import METHODS
from metacontrast.methods.batches import CLASSIFIER
from metacontrast.model.model import Model
from metacontrast.training import sources
from metacontrast.training.config import TrainConfig
from metacontrast.training.run import CONFIG, TrainedRun, load_run
from metacontrast.types import Inner, Params, map_params

USUAL_INNER = Inner(steps=20, lr=0.3, scope="head")
"""How an encoder from elsewhere adapts by default."""

_ADAPTS = ("head", "head_bias", "norm", "order", "inner_steps", "inner_lr", "inner_scope", "inner_loss", "eval_steps")


class Start(NamedTuple):
    """What a start brings.

    Args:
        fixed: fields of a configuration that are its own.
        usual: fields that are its own unless asked for otherwise.
        run: the trained run that it is, if it is one.
    """

    images: ImageFormat
    fixed: dict[str, Any]
    usual: dict[str, Any]
    run: TrainedRun | None


def with_start(config: TrainConfig, start: str, weights: str | None = None, given: Collection[str] = ()) -> TrainConfig:
    """The configuration for training from a start, with all that this brings.

    Args:
        start: the name of a model that comes with the package, a run's folder, or an encoder of `sources`.
        weights: a file of safetensors for such an encoder.
        given: the fields that were asked for and stay as they are; one that the start cannot have is an `InputError`.
    """
    start, weights = _resolved(start, weights)
    found = load_start(start, weights)
    fixed = found.fixed | _read_options(start, found.images, config)
    for name in sorted(fixed.keys() & set(given)):
        if getattr(config, name) != fixed[name]:
            brought = "has none" if fixed[name] is None else f"brings {name}={fixed[name]}"
            raise InputError(f"{name}={getattr(config, name)}, but {start} {brought}: leave it out")
    method = METHODS[config.method]
    settled = {*given, *method.needs, *method.fields}
    if found.run is not None and found.run.config.method != config.method:
        settled |= {*_ADAPTS} - {"norm"}
    usual = {name: value for name, value in found.usual.items() if name not in settled}
    return replace(config, start=start, weights=weights, **fixed, **usual)


def load_start(name: str, weights: str | None) -> Start:
    """What the start of that name brings."""
    if not sources.is_source(name):
        run = load_run(sources.find_model(name))
        if run.config.encoder == "start":
            raise InputError(f"{name} started from {run.config.start}: go on with it by --resume, or start from that")
        fixed = {name: getattr(run.config, name) for name in ("encoder", "filters")}
        return Start(format_of(run), fixed, {name: getattr(run.config, name) for name in _ADAPTS}, run)
    images = sources.starting_encoder(name, weights, True).images
    usual = {
        "head": "zeroed",
        "head_bias": True,
        "norm": "running",
        "outer_lr": 1e-4,
        "eval_steps": (USUAL_INNER.steps,),
        "inner_steps": USUAL_INNER.steps,
        "inner_lr": USUAL_INNER.lr,
        "inner_scope": USUAL_INNER.scope,
        "order": USUAL_INNER.order,
    }
    return Start(images, {"encoder": "start", "filters": None}, usual, None)


def as_start_sees(config: TrainConfig, images: ClassImages) -> ClassImages:
    """Images that were read for the configuration, with the channels and the normalization of its start."""
    if config.start is None:
        return images
    form = load_start(config.start, config.weights).images
    images = images.with_channels(form.channels)
    if images.shape != form.shape or config.invert != form.invert:
        raise InputError(
            f"{images.name} is {images.shape} with invert={config.invert}, but {config.start} takes {form.shape} with "
            f"invert={form.invert}: make the configuration with with_start"
        )
    return replace(images, mean=form.mean, std=form.std)


def starting_params(config: TrainConfig, model: Model, classes: int) -> Params:
    """Draw parameters from the seed, and put the start's own in their place.

    The head is the start's where it is of the same kind and size, and so is all that the method learns beside the model
    where the same method trained the start, but for a classifier of its training classes.

    Args:
        classes: how many there are to train on, for methods that tell them all apart.
    """
    generator = torch.Generator().manual_seed(config.seed)
    run = None if config.start is None else load_start(config.start, config.weights).run
    if run is None:  # an encoder from elsewhere begins with its own values
        return config.init(model, generator, classes)
    params = config.init(model, generator, classes, partial(_with_model_of, run, config))
    if run.config.method == config.method:
        others = {name: t for name, t in run.params.extra.items() if name != CLASSIFIER}
        params = params._replace(extra=_with_equal_shapes(params.extra, others))
        if run.config.inner_lr == config.inner_lr:  # else the rates that are asked for are others
            params = params._replace(rates=_with_equal_shapes(params.rates, run.params.rates))
    return map_params(torch.clone, params)


def _with_equal_shapes(drawn: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The drawn tensors, and in their place others of the same name and shape."""
    return {name: others[name] if name in others and others[name].shape == t.shape else t for name, t in drawn.items()}


def _with_model_of(run: TrainedRun, config: TrainConfig, drawn: Params) -> Params:
    """The drawn parameters with the encoder of the start, and with its head."""
    own, wanted = _unwrapped(run.params.encoder, run.config), _unwrapped(drawn.encoder, config)
    if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in wanted.items()}:
        raise InputError(f"{config.start} has another encoder than encoder={config.encoder}: use with_start")
    encoder = {name: own[bare] for name, bare in zip(drawn.encoder, wanted, strict=True)}
    head, other = run.params.head, drawn.head
    is_same = run.config.head == config.head and head.weight.shape == other.weight.shape
    is_same = is_same and (head.bias is None) == (other.bias is None)
    return drawn._replace(encoder=encoder, head=head if is_same else other)


def _unwrapped(encoder: Mapping[str, Tensor], config: TrainConfig) -> dict[str, Tensor]:
    """The same tensors by their names outside `UnitLength`, in which a cosine head puts an encoder."""
    return {name.removeprefix("encoder.") if config.head == "cosine" else name: t for name, t in encoder.items()}


def format_of(run: TrainedRun) -> ImageFormat:
    """What the images of a trained run look like."""
    channels, size, _ = run.image_shape
    resample = run.config.resample or DATASETS.get(run.config.dataset, FOLDER).resample
    return ImageFormat(channels, size, resample, run.config.invert, run.mean, run.std)


def _resolved(start: str, weights: str | None) -> tuple[str, str | None]:
    """A start and its weights, from anywhere; the folder of a saved encoder from elsewhere stands for its name."""
    if sources.is_source(start) or start in sources.pretrained_names():
        return start, None if weights is None else str(Path(weights).absolute())
    folder = sources.find_model(start).absolute()
    source = _saved_source(folder)
    if source is None:
        return str(folder), weights
    name = str(source.get("name"))
    if "stored_digest" in source:
        return name, str(folder / sources.TENSORS)
    if not sources.is_source(name) or sources.digest_of_start(name, None) != source.get("digest"):
        raise InputError(f"{folder} holds no weights, and {name} has not those that it was made with: save it again")
    return name, None


def _saved_source(folder: Path) -> dict[str, Any] | None:
    """What the folder of a saved model says of its encoder from elsewhere, if it has one."""
    source = read_facts(folder / CONFIG).get("source")
    return source if isinstance(source, dict) else None


def _read_options(start: str, images: ImageFormat, config: TrainConfig) -> dict[str, Any]:
    """How the data set is read for these images."""
    spec, _ = find_dataset(config.dataset)
    if images.invert and "invert" not in spec.options:
        raise InputError(f"{start} takes inverted images, and {spec.name} cannot be inverted: choose another")
    wanted = {"image_size": images.size, "resample": images.resample, "invert": images.invert}
    return {name: value for name, value in wanted.items() if name in spec.options}
