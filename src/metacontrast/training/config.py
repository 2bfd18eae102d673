"""One typed record of everything that decides a training run; what a run directory keeps as `config.json`."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import nn

from metacontrast.data.augment import AugmentationName
from metacontrast.data.episodes import EpisodeSampler, Labels
from metacontrast.data.images import ClassImages
from metacontrast.data.options import ReadOptions, Resample, SplitScheme
from metacontrast.errors import InputError
from metacontrast.fields import as_declared, check_fields, field_types
from metacontrast.maml.engine import Precision
from metacontrast.maml.inner import Inner, LossName, Order, Scope
from metacontrast.model.encoders import EncoderName, build_encoder
from metacontrast.model.head import HeadKind
from metacontrast.model.model import Model
from metacontrast.model.normalization import AnyNorm
from metacontrast.training import sources

OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop"]
Schedule = Literal["constant", "cosine"]
Objective = Literal["maml", "contrastive"]


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainConfig:
    """A training run. The command line has one flag for every field; `recipes` has named configurations."""

    dataset: str = _option("glyphs", "glyphs, omniglot, mini-imagenet, cifar-fs, or folder:PATH")
    split_scheme: SplitScheme = _option("default", "default: the literature's split; released: the released code's")
    image_size: int | None = _option(None, "side of the images in pixels; none: the data set's own")
    resample: Resample | None = _option(None, "filter for resizing; none: the data set's own")
    invert: bool = _option(False, "swap black and white")
    rotations: bool = _option(False, "add every class turned by 90, 180 and 270 degrees as new classes")
    skip_unreadable: bool = _option(False, "leave out image files that cannot be read")
    split_seed: int | None = _option(None, "divide the classes of an undivided folder by this seed; none: do not")

    ways: int = _option(5, "classes per task")
    shots: int = _option(1, "support images per class")
    queries: int = _option(15, "query images per class")
    labels: Labels = _option("fresh", "fresh: any class any label; bound...: a class always gets the same label")
    pool_size: int | None = _option(None, "reuse a fixed pool of so many tasks; 1: one fixed task; none: fresh tasks")
    relabel: bool = _option(False, "permute a task's labels anew each time that it is used")
    least_ways: int | None = _option(None, "draw the ways of every update from this to --ways; also --ways 5-20")
    least_shots: int | None = _option(None, "draw the shots of every update from this to --shots; also --shots 1-10")
    unequal_shots: bool = _option(False, "share a training task's support images unequally among its classes")
    augment: tuple[AugmentationName, ...] = _option((), "augmentation of training tasks: flip, crop, colour; none")

    encoder: Literal[EncoderName, "start"] = _option(
        "conv4-released", "conv4 (the paper's text), conv4-released, resnet12, mlp, or start: that of --start"
    )
    filters: int | None = _option(None, "width of the encoder; none: the preset's own")
    start: str | None = _option(
        None,
        "bundled model, run, photos, timm:NAME, hf:NAME or torchvision:NAME to start from; none: random parameters",
    )
    weights: str | None = _option(None, "safetensors file for an encoder such as --start timm:NAME; none: its own")
    head: HeadKind = _option("zeroed", "learned; zeroed after every update; one shared row; built from prototypes")
    head_bias: bool = _option(True, "whether the head has a bias")
    head_init_scale: float = _option(1.0, "factor on the random start of the head; 0 is zero initialization")
    norm: AnyNorm = _option(
        "transductive", "query images normalized by their own batch, by the support set, or by the start's averages"
    )

    order: Order = _option("first", "first: FOMAML; second: through the inner steps (SOMAML)")
    inner_steps: int = _option(1, "gradient steps on the support set")
    inner_lr: float = _option(0.4, "step size of the inner loop")
    inner_scope: Scope = _option("all", "what the inner loop moves")
    inner_loss: LossName = _option("cross_entropy", "loss of both loops")

    objective: Objective = _option("maml", "maml, or the contrastive loss that equals it where only the head adapts")
    drop_interference: bool = _option(False, "leave the interference term out of the contrastive loss")
    drop_noise: bool = _option(False, "leave the noise out of the contrastive coefficients")

    optimizer: OptimizerName = _option("adam", "optimizer of the outer loop, with PyTorch's defaults")
    outer_lr: float = _option(1e-3, "learning rate of the outer loop")
    lr_schedule: Schedule = _option("constant", "of the outer learning rate; cosine: down to 0 at the last update")
    weight_decay: float | None = _option(None, "weight decay of the optimizer; none: PyTorch's default for it")
    clip_norm: float | None = _option(None, "largest norm of the outer gradient; none: no limit")
    meta_batch: int = _option(32, "tasks per update")
    updates: int = _option(300, "number of outer updates")
    precision: Precision = _option(
        "float32", "arithmetic of an update: IEEE float32; tf32, coarser, a GPU's; or bfloat16, coarsest"
    )

    eval_every: int = _option(50, "updates between evaluations; 0: only after the last")
    eval_episodes: int = _option(100, "test tasks per evaluation during training, the same ones each time")
    eval_steps: tuple[int, ...] = _option((1,), "inner steps at evaluation, comma-separated")
    eval_split: str = _option("auto", "split that is evaluated on during training; auto: val where there is one")
    select: bool = _option(False, "keep the model that is most accurate at an evaluation as best.safetensors")
    explain_every: int = _option(0, "updates between records of what the gradient is made of; 0: none")
    checkpoint_every: int = _option(50, "updates between checkpoints")
    keep_every: int = _option(0, "updates between copies of the model that stay, update 0 included; 0: none")
    seed: int = _option(0, "seed of starting values and tasks")

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise InputError(f"{name}={value}, but it must be {least} or more")
        for name in ("inner_lr", "outer_lr", "clip_norm"):
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf"):
                raise InputError(f"{name}={value}, but it must be above 0 and finite")
        if self.weight_decay is not None and not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"weight_decay={self.weight_decay}, but it must be 0 or more and finite")
        if not 0 <= self.head_init_scale < float("inf"):
            raise InputError(f"head_init_scale={self.head_init_scale}, but it must be 0 or more and finite")
        if not self.eval_steps or min(self.eval_steps) < 0:
            raise InputError(f"eval_steps={self.eval_steps}, but it needs at least one number, each 0 or more")
        if self.filters is not None and self.filters > LARGEST_WIDTH:
            raise InputError(f"filters={self.filters}, but it must be {LARGEST_WIDTH} or less")
        if self.head in ("zeroed", "shared") and (self.inner_scope == "encoder" or self.inner_steps == 0):
            raise InputError(
                f"head={self.head} with inner_scope={self.inner_scope} and inner_steps={self.inner_steps} leaves the "
                "outputs at zero and learns nothing: use --head learned, or let the inner loop move the head"
            )
        if self.head == "prototype" and not self.head_bias:
            raise InputError("head=prototype is built with a bias: leave out --no-head-bias")
        if self.least_ways is not None and self.head == "learned":
            raise InputError("head=learned is for one number of classes: leave out least_ways, or use --head zeroed")
        _check_start(self)
        _check_objective(self)

    def digest(self) -> str:
        """SHA-256 over all fields, in hexadecimal: the name of a run among others."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

    def inner(self) -> Inner:
        """How training adapts to a task."""
        return Inner(self.inner_steps, self.inner_lr, self.inner_scope, self.order, self.inner_loss)

    def dropped(self) -> dict[str, bool]:
        """What the contrastive objective leaves out."""
        return {"drop_interference": self.drop_interference, "drop_noise": self.drop_noise}

    def read_options(self) -> ReadOptions:
        """How images are read."""
        names = (f.name for f in dataclasses.fields(ReadOptions))
        return ReadOptions(**{name: getattr(self, name) for name in names})

    def model(self, image_shape: tuple[int, int, int], *, trained: bool = True) -> Model:
        """The model for images of that shape.

        Args:
            trained: False leaves the weights of a start's encoder to be loaded later.
        """
        encoder, size = self._encoder(image_shape, trained)
        return Model(encoder, self.ways, size, head=self.head, head_bias=self.head_bias, norm=self.norm)

    def _encoder(self, image_shape: tuple[int, int, int], trained: bool) -> tuple[nn.Module, int]:
        """The encoder and the length of its features."""
        if self.encoder != "start":
            encoder = build_encoder(self.encoder, image_shape, self.filters)
            return encoder, encoder.feature_size
        assert self.start is not None
        found = sources.starting_encoder(self.start, self.weights, trained)
        return found.encoder, sources.feature_size(found.encoder, found.images, self.start)

    def training_tasks(self, images: ClassImages) -> EpisodeSampler:
        """The tasks that are trained on: update u uses the tasks u·meta_batch and following."""
        names = ("labels", "pool_size", "relabel", "least_ways", "least_shots", "unequal_shots")
        options = {name: getattr(self, name) for name in names}
        return replace(self.test_tasks(images), block=self.meta_batch, **options)

    def largest_tasks(self, images: ClassImages) -> EpisodeSampler:
        """The same with the largest size throughout."""
        return replace(self, least_ways=None, least_shots=None).training_tasks(images)

    def test_tasks(self, images: ClassImages) -> EpisodeSampler:
        """Ordinary tasks of the same size and seed, whatever the training tasks are."""
        return EpisodeSampler(images, self.ways, self.shots, self.queries, seed=self.seed)


LARGEST_WIDTH = 4096

_LEAST = {
    "ways": 2,
    "shots": 1,
    "queries": 1,
    "pool_size": 1,
    "image_size": 4,
    "split_seed": 0,
    "filters": 1,
    "inner_steps": 0,
    "meta_batch": 1,
    "updates": 1,
    "eval_every": 0,
    "eval_episodes": 2,
    "explain_every": 0,
    "checkpoint_every": 1,
    "keep_every": 0,
    "seed": 0,
}


def _check_start(config: TrainConfig) -> None:
    """Raise unless the encoder is that of a start from elsewhere exactly where there is one."""
    is_elsewhere = config.start is not None and sources.is_source(config.start)
    if config.weights is not None and not is_elsewhere:
        raise InputError("weights are for an encoder such as --start timm:NAME: leave them out")
    if (config.encoder == "start") != is_elsewhere:
        names = "an encoder from elsewhere" if is_elsewhere else "no encoder from elsewhere"
        raise InputError(
            f"encoder={config.encoder}, but start={config.start} names {names}: make the configuration with with_start"
        )


def _check_objective(config: TrainConfig) -> None:
    """Raise when the theory's closed forms are asked for outside their setting."""
    if config.objective == "contrastive" and config.precision != "float32":
        raise InputError(f"objective=contrastive cannot have precision={config.precision}: use --precision float32")
    dropped = [name for name in ("drop_interference", "drop_noise") if getattr(config, name)]
    if dropped and config.objective == "maml":
        raise InputError(f"{dropped[0]} is a switch of the contrastive loss: add --objective contrastive")
    if config.objective == "contrastive":
        wanted = {"inner_scope": ("head",), "head": ("learned", "zeroed")}
        for name, allowed in wanted.items():
            if (value := getattr(config, name)) not in allowed:
                flag = "--" + name.replace("_", "-")
                raise InputError(f"objective=contrastive cannot have {name}={value}: add {flag} {' or '.join(allowed)}")
        if config.order == "second" and config.inner_steps > 1:
            raise InputError(f"objective=contrastive has no second order for {config.inner_steps} steps: use 1 step")
    if config.objective == "contrastive" or config.explain_every:
        name = "objective=contrastive" if config.objective == "contrastive" else f"explain_every={config.explain_every}"
        if config.inner_loss != "cross_entropy" or config.inner_steps < 1:
            raise InputError(f"{name} needs --inner-loss cross_entropy and --inner-steps 1 or more")


def config_from_values(values: Any, where: str) -> TrainConfig:
    """The configuration that `where` holds; what cannot be one is named in an `InputError`."""
    if not isinstance(values, dict):
        raise InputError(f"{where} holds no configuration: it is damaged or not from here")
    types = field_types(TrainConfig)
    if unknown := sorted(set(values) - set(types)):
        raise InputError(f"{where} has unknown fields {', '.join(unknown)}: it was written by another version")
    try:
        return TrainConfig(**{name: as_declared(name, value, types[name]) for name, value in values.items()})
    except InputError as error:
        raise InputError(f"{where} holds a configuration that cannot be used, correct or remove it: {error}") from error
