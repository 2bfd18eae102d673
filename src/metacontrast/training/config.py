"""One typed record of everything that decides a training run; what a run directory keeps as `config.json`."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch

from metacontrast.data.augment import AugmentationName
from metacontrast.data.decode import ReadOptions, Resample, SplitScheme
from metacontrast.data.episodes import BalancedBatches, EpisodeSampler, Labels
from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError, check_choice, check_counts
from metacontrast.fields import as_declared, check_fields, field_types
from metacontrast.maml.engine import Precision, TaskGradient
from metacontrast.methods import METHODS
from metacontrast.model.encoders import EncoderName, build_encoder
from metacontrast.model.head import BUILT_HEADS, HeadKind, TestHead
from metacontrast.model.model import Model
from metacontrast.model.normalization import AnyNorm
from metacontrast.training import sources
from metacontrast.types import Inner, LossName, Order, Params, Scope

OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop"]
Schedule = Literal["constant", "cosine"]


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainConfig:
    """Configuration of a training run, the argument of `train_config`.

    Every field is a flag of `metacontrast train`; `metacontrast train --help-all` explains and groups them.

    Raises:
        InputError: a value is out of range, or two fields contradict each other.
    """

    dataset: str = _option("glyphs", "glyphs, omniglot, mini-imagenet, cifar-fs, or folder:PATH")
    split_scheme: SplitScheme = _option("default", "default: the literature's split; released: the authors' code's")
    image_size: int | None = _option(None, "side of the images in pixels; none: the data set's own")
    resample: Resample | None = _option(None, "Pillow's filter for resizing; none: the data set's own")
    invert: bool = _option(False, "swap black and white")
    rotations: bool = _option(False, "add every class turned by 90, 180 and 270 degrees as new classes")
    skip_unreadable: bool = _option(False, "leave out image files that cannot be read")
    split_seed: int | None = _option(None, "divide the classes of an undivided folder by this seed; none: do not")

    ways: int = _option(5, "classes per task")
    shots: int = _option(1, "support images per class")
    queries: int = _option(15, "query images per class")
    labels: Labels = _option("fresh", "fresh: drawn for each task; bound...: a class always has the same label")
    pool_size: int | None = _option(None, "reuse a pool of N tasks; 1: one fixed task; none: new tasks at every update")
    relabel: bool = _option(False, "permute a task's labels each time it is used")
    least_ways: int | None = _option(None, "draw each update's ways between this and --ways; also --ways 5-20")
    least_shots: int | None = _option(None, "draw each update's shots between this and --shots; also --shots 1-10")
    unequal_shots: bool = _option(False, "divide a training task's support images unequally among its classes")
    augment: tuple[AugmentationName, ...] = _option((), "augmentation of training tasks: flip, crop, colour, or none")

    encoder: Literal[EncoderName, "start"] = _option(
        "conv4-released",
        "conv4 (the paper's text), conv4-released (the authors' code), resnet12, mlp, or start: that of --start",
    )
    filters: int | None = _option(None, "width of the encoder; none: the preset's own")
    start: str | None = _option(
        None,
        "bundled model, run, photos, timm:NAME, hf:NAME or torchvision:NAME to start from; none: random parameters",
    )
    weights: str | None = _option(None, "safetensors file for an encoder such as --start timm:NAME; none: its own")
    head: HeadKind = _option(
        "zeroed",
        "learned; zeroed after every update; shared: one row; prototype: class means; cosine: the same by angle; "
        "ridge: ridge regression",
    )
    head_bias: bool = _option(True, "whether the head has a bias")
    head_init_scale: float = _option(1.0, "scale of the head's random initialization; 0: zero initialization")
    norm: AnyNorm = _option(
        "transductive", "batch-norm statistics of query images: their own, the support set's, or the start's averages"
    )

    order: Order = _option("first", "first: FOMAML; second: SOMAML, through the inner steps")
    inner_steps: int = _option(1, "gradient steps on the support set")
    inner_lr: float = _option(0.4, "step size of the inner loop")
    inner_scope: Scope = _option("all", "what the inner loop adapts: all (MAML), head (ANIL) or encoder (BOIL)")
    inner_loss: LossName = _option("cross_entropy", "loss of both loops")

    method: str = _option("maml", f"way of training: {', '.join(METHODS)}; it brings the fields that it needs")
    drop_interference: bool = _option(False, "contrastive: leave the interference term out of the loss")
    drop_noise: bool = _option(False, "contrastive: leave the noise term out of the coefficients")
    contrast_weight: float = _option(0.1, "conml: weight λ of the contrast of adapted models")
    penalty: float = _option(2.0, "imaml: strength λ of the pull back to the start of the inner loop")
    cg_steps: int = _option(5, "imaml: steps of conjugate gradients")

    optimizer: OptimizerName = _option("adam", "optimizer of the outer loop, with PyTorch's defaults")
    outer_lr: float = _option(1e-3, "learning rate of the outer loop")
    lr_schedule: Schedule = _option("constant", "schedule of the outer learning rate; cosine: to 0 at the last update")
    weight_decay: float | None = _option(None, "weight decay of the optimizer; none: PyTorch's default for it")
    clip_norm: float | None = _option(None, "largest norm of the outer gradient; none: no limit")
    meta_batch: int = _option(32, "tasks per update")
    updates: int = _option(300, "number of outer updates")
    precision: Precision = _option(
        "float32", "arithmetic of an update: float32 (IEEE), tf32 (coarser, GPU only) or bfloat16 (coarsest)"
    )

    eval_every: int = _option(50, "updates between evaluations; 0: only after the last")
    eval_episodes: int = _option(100, "tasks per evaluation during training, always the same ones")
    eval_steps: tuple[int, ...] = _option((1,), "inner steps at evaluation, comma-separated")
    eval_split: str = _option("auto", "split to evaluate on during training; auto: val where there is one")
    select: bool = _option(False, "keep the model with the best evaluation accuracy as best.safetensors")
    explain_every: int = _option(0, "updates between records of the gradient's decomposition; 0: none")
    checkpoint_every: int = _option(50, "updates between checkpoints")
    keep_every: int = _option(0, "updates between copies of the model that are kept, update 0 included; 0: none")
    seed: int = _option(0, "seed of the initialization and of the tasks")

    def __post_init__(self) -> None:
        check_fields(self)
        _check_method(self)
        for least, names in _LEAST.items():
            check_counts(least, **{name: getattr(self, name) for name in names})
        for name in ("inner_lr", "outer_lr", "clip_norm", "penalty", "contrast_weight"):
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf"):
                raise InputError(f"{name}={value}, but it must be above 0 and finite")
        for name in ("weight_decay", "head_init_scale"):
            if (value := getattr(self, name)) is not None and not 0 <= value < float("inf"):
                raise InputError(f"{name}={value}, but it must be 0 or more and finite")
        if not self.eval_steps or min(self.eval_steps) < 0:
            raise InputError(f"eval_steps={self.eval_steps}, but it needs at least one number, each 0 or more")
        if self.filters is not None and self.filters > LARGEST_WIDTH:
            raise InputError(f"filters={self.filters}, but it must be {LARGEST_WIDTH} or less")
        if self.head in ("zeroed", "shared") and (self.inner_scope == "encoder" or self.inner_steps == 0):
            raise InputError(
                f"head={self.head} with inner_scope={self.inner_scope} and inner_steps={self.inner_steps} leaves the "
                "outputs at zero and learns nothing: use --head learned, or let the inner loop move the head"
            )
        if self.head not in ("learned", "shared") and self.head_init_scale != 1:
            raise InputError(
                f"head_init_scale={self.head_init_scale} scales a random head, and head={self.head} starts without "
                "one: use --head learned, or leave it out"
            )
        if self.unequal_shots and self.shots == 1:
            raise InputError("unequal_shots with shots=1 leaves one image for each class: raise shots, or leave it out")
        if self.head in BUILT_HEADS and not self.head_bias:
            raise InputError(f"head={self.head} is built with a bias: leave out --no-head-bias")
        if self.least_ways is not None and self.head == "learned":
            raise InputError("head=learned is for one number of classes: leave out least_ways, or use --head zeroed")
        _check_start(self)
        self.inner()  # raises for steps that the method cannot follow

    def digest(self) -> str:
        """SHA-256 over all fields, in hexadecimal: the name of a run among others."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

    def inner(self, share: float = 1.0) -> Inner:
        """How training adapts to a task when that share of its updates is done; at the end as at test."""
        inner = Inner(self.inner_steps, self.inner_lr, self.inner_scope, self.order, self.inner_loss)
        change = METHODS[self.method].inner
        return inner if change is None else change(inner, share, **self._options())

    @property
    def follows_length(self) -> bool:
        """Whether an update depends on how many there will be, so that a training cannot be made longer later on."""
        return self.lr_schedule != "constant" or METHODS[self.method].anneals

    @property
    def without_effect(self) -> frozenset[str]:
        """Fields of the inner loop that nothing of this training depends on, neither an update nor an evaluation."""
        ignored = frozenset() if self.explain_every else frozenset(METHODS[self.method].ignores)
        if self.method == "contrastive" and self.head == "zeroed":  # whose rows are equal, and one step has no noise
            ignored |= {"drop_interference", "drop_noise"} if self.inner_steps == 1 else {"drop_interference"}
        if self.inner_steps > 0:
            return ignored
        return ignored | {"order"} | ({"inner_lr", "inner_scope"} if max(self.eval_steps) == 0 else set())

    @property
    def tasks_at_once(self) -> int:
        """How many tasks the method's gradient takes together."""
        return METHODS[self.method].tasks_at_once

    def task_gradient(self) -> TaskGradient | None:
        """The gradient of one task that the method follows with its options; None is MAML's."""
        gradient = METHODS[self.method].gradient
        return None if gradient is None else partial(gradient, **self._options())

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in METHODS[self.method].options}

    def test_heads(self) -> tuple[TestHead, ...]:
        """What the inner loop starts from at test; a head that answers without inner steps has no use for zeros."""
        return ("kept",) if self.head in BUILT_HEADS and self.inner_steps == 0 else ("kept", "zeroed")

    def read_options(self) -> ReadOptions:
        """How images are read."""
        names = (f.name for f in dataclasses.fields(ReadOptions))
        return ReadOptions(**{name: getattr(self, name) for name in names})

    def model(self, image_shape: tuple[int, int, int], *, trained: bool = True) -> Model:
        """The model for images of that shape.

        Args:
            trained: False leaves the weights of a start's encoder to be loaded later.
        """
        if self.encoder != "start":
            encoder = build_encoder(self.encoder, image_shape, self.filters)
            size = encoder.feature_size
        else:
            assert self.start is not None
            found = sources.starting_encoder(self.start, self.weights, trained)
            encoder, size = found.encoder, sources.feature_size(found.encoder, found.images, self.start)
        return Model(encoder, self.ways, size, head=self.head, head_bias=self.head_bias, norm=self.norm)

    def init(
        self,
        model: Model,
        generator: torch.Generator,
        classes: int,
        begin: Callable[[Params], Params] = lambda drawn: drawn,
    ) -> Params:
        """Draw the starting values of everything that the method learns.

        Args:
            classes: how many there are to train on, for methods that tell them all apart.
            begin: puts others in place of the model's own, before the method adds what it learns beside them.
        """
        params = begin(model.init(generator, self.head_init_scale))
        start = METHODS[self.method].start
        return params if start is None else start(model, params, self.inner(), generator, classes)

    def training_tasks(self, images: ClassImages) -> EpisodeSampler | BalancedBatches:
        """The tasks that are trained on, or batches as large: update u uses those from number u·meta_batch on."""
        if METHODS[self.method].batches:
            return BalancedBatches(images, self.ways * (self.shots + self.queries), self.seed)
        names = ("labels", "pool_size", "relabel", "least_ways", "least_shots", "unequal_shots")
        options = {name: getattr(self, name) for name in names}
        return replace(self.test_tasks(images), block=self.meta_batch, **options)

    def test_tasks(self, images: ClassImages) -> EpisodeSampler:
        """Ordinary tasks of the same size and seed, whatever the training tasks are."""
        return EpisodeSampler(images, self.ways, self.shots, self.queries, seed=self.seed)


LARGEST_WIDTH = 4096

_LEAST = {
    0: ("inner_steps", "split_seed", "eval_every", "explain_every", "keep_every", "seed"),
    1: ("shots", "queries", "pool_size", "filters", "cg_steps", "meta_batch", "updates", "checkpoint_every"),
    2: ("ways", "eval_episodes"),
    4: ("image_size",),
}
"""The least values of fields."""


def _check_method(config: TrainConfig) -> None:
    """Raise for fields that the method cannot have, and where the theory's closed forms are outside their setting."""
    check_choice("method", config.method, METHODS)
    method = METHODS[config.method]
    for name, allowed in method.needs.items():
        if (value := getattr(config, name)) not in allowed:
            raise InputError(f"method={config.method} cannot have {name}={value}: add {_as_flags(name, allowed)}")
    if config.inner_steps < method.least_steps:
        raise InputError(f"method={config.method} cannot have inner_steps={config.inner_steps}: add --inner-steps 1")
    if config.meta_batch % method.tasks_at_once:
        raise InputError(
            f"method={config.method} takes {method.tasks_at_once} tasks at once, and meta_batch={config.meta_batch} is "
            f"not a multiple of {method.tasks_at_once}: change --meta-batch"
        )
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    for owner, each in METHODS.items():
        for name in set(each.options) - set(method.options):
            if (value := getattr(config, name)) != defaults[name]:
                raise InputError(f"{name}={value} is an option of the method {owner}: add --method {owner}")
    if config.method == "contrastive" and config.order == "second" and config.inner_steps > 1:
        raise InputError(f"method=contrastive has no second order for {config.inner_steps} steps: use 1 step")
    if config.method == "reptile" and config.head == "zeroed" and config.inner_steps == 1:
        raise InputError(
            "method=reptile with head=zeroed and inner_steps=1 learns nothing, because the first step from a zero head "
            "keeps the encoder as it is: add --inner-steps 2"
        )
    needs_theory = f"explain_every={config.explain_every}" if config.explain_every else ""
    if config.explain_every and not method.explains:
        raise InputError(
            f"method={config.method} has an inner loop of which the theory does not speak: leave out {needs_theory}"
        )
    needs_theory = "method=contrastive" if config.method == "contrastive" else needs_theory
    is_still = config.inner_steps < 1 and config.head not in BUILT_HEADS
    if needs_theory and config.inner_loss != "cross_entropy":
        raise InputError(f"{needs_theory} needs --inner-loss cross_entropy")
    if needs_theory and is_still:
        raise InputError(f"{needs_theory} needs --inner-steps 1 or more")


def _as_flags(name: str, values: Sequence[Any]) -> str:
    """The flags that give a field one of some values."""
    flag, words = name.replace("_", "-"), " or ".join(map(str, values)).lower()
    return f"--{'' if values[0] else 'no-'}{flag}" if isinstance(values[0], bool) else f"--{flag} {words}"


def with_fields(config: TrainConfig, **fields: Any) -> TrainConfig:
    """Return the configuration with some fields replaced; a new `method` also sets the fields that it needs.

    >>> with_fields(TrainConfig(), method="protonet").head
    'prototype'
    """
    brought: dict[str, Any] = {}
    if (name := fields.get("method", config.method)) != config.method and name in METHODS:
        method = METHODS[name]
        needed = {each: values[0] for each, values in method.needs.items() if getattr(config, each) not in values}
        brought = {**method.fields, **needed}
    return replace(config, **(brought | fields))


def _check_start(config: TrainConfig) -> None:
    """Raise unless the encoder is that of a start from elsewhere exactly where there is one."""
    is_elsewhere = config.start is not None and sources.is_source(config.start)
    if config.weights is not None and not is_elsewhere:
        raise InputError("weights are for an encoder such as --start timm:NAME: leave them out")
    if (config.encoder == "start") != is_elsewhere:
        names = "an encoder from elsewhere" if is_elsewhere else "no encoder from elsewhere"
        raise InputError(
            f"encoder={config.encoder}, but start={config.start} names {names}: give --start timm:NAME, hf:NAME or "
            "torchvision:NAME, or call with_start in Python"
        )


def config_from_values(values: Any, where: str) -> TrainConfig:
    """The configuration that `where` holds; what cannot be one is named in an `InputError`."""
    if not isinstance(values, dict):
        raise InputError(f"{where} holds no configuration: it is damaged or from another program")
    types, values = field_types(TrainConfig), dict(values)
    if "objective" in values:  # the name of `method` in runs that were made before there were others
        values["method"] = values.pop("objective")
    if unknown := sorted(set(values) - set(types)):
        raise InputError(f"{where} has unknown fields {', '.join(unknown)}: it was written by another version")
    try:
        return TrainConfig(**{name: as_declared(name, value, types[name]) for name, value in values.items()})
    except InputError as error:
        raise InputError(f"{where} holds a configuration that cannot be used, correct or remove it: {error}") from error
