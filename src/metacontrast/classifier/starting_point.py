"""What a classifier starts from: a meta-trained model, or any encoder, with the kind of images that it sees.

It is named by one of the models that come with the package, by a folder, which is what `metacontrast train` wrote or
what `save_starting_point` wrote (`config.json` and `model.safetensors`), or by a source of encoders (see `sources`).
An encoder from elsewhere is written as its name and the digest of its weights, or with its weights.
"""

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from metacontrast.classifier.candidates import FALL_WITH_WAYS, TEMPERATURES, Candidate, HeadChoice
from metacontrast.classifier.stored_values import stored_inner, stored_source, stored_temperatures
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError, check_choice
from metacontrast.files import as_path, atomic_path, check_writable, parse_json, read_facts
from metacontrast.methods import METHODS
from metacontrast.model.frozen import freeze, set_values
from metacontrast.model.model import Model
from metacontrast.training import checkpoint, sources
from metacontrast.training.config import config_from_values
from metacontrast.training.run import CONFIG, TrainedRun, load_run, save_model
from metacontrast.training.sources import TENSORS, Source, find_model
from metacontrast.training.start import USUAL_INNER, format_of
from metacontrast.types import Head, Inner, Params, Scope

FORMAT, VERSION = "metacontrast-model", 2
BatchStats = Literal["running", "support"]


@dataclass(frozen=True, eq=False, repr=False)
class StartingPoint:
    """The model that a `FewShotClassifier` starts from: an encoder, the image format that it takes, and how it adapts.

    Args:
        name: what messages call it.
        model, params: the model and its parameters; its batch norms use the statistics of the support images
            (`inductive`) or their own running averages (`running`).
        images: what it takes.
        inner: how it adapts by default.
        run: the trained run behind it, if there is one.
        source: where its encoder comes from, if it is not of this library.
        head: which head predicts unless told otherwise.
        temperatures: of each head's probabilities where no image can be held out, for five classes; that of `adapted`
            holds for `inner`.
    """

    name: str
    model: Model
    params: Params
    images: ImageFormat
    inner: Inner
    run: TrainedRun | None = None
    source: Source | None = None
    head: HeadChoice = "adapted"
    temperatures: Mapping[str, float] = field(default_factory=TEMPERATURES.copy)

    def __repr__(self) -> str:
        return f"<StartingPoint {self.name}>"

    def temperature(self, head: Candidate, scope: Scope, ways: int) -> float:
        """The temperature of a head of that many classes where no image can be held out."""
        own = Candidate(self.inner.lr, self.inner.steps)
        if head.method == "adapted" and (head, scope) != (own, self.inner.scope):
            return 1.0
        return self.temperatures.get(head.method, 1.0) * (5 / ways) ** FALL_WITH_WAYS[head.method]

    @property
    def batch_stats(self) -> BatchStats:
        """Which statistics its batch norms use."""
        return "running" if self.model.norm == "running" else "support"

    @property
    def encoder(self) -> nn.Module:
        """The encoder as a module of its own, with the parameters in it."""
        module = copy.deepcopy(self.model.encoder)
        set_values(module, self.params.encoder)
        return module

    @cached_property
    def frozen_encoder(self) -> nn.Module:
        """The encoder with its own running averages, as a plain module."""
        probe = torch.randint(256, (3, *self.images.shape), generator=torch.Generator().manual_seed(0))
        return freeze(self.model, self.params.encoder, self.images.to_input(probe.to(torch.uint8))).eval()

    def keeps_features(self, inner: Inner) -> bool:
        """Whether an image's features are the same at every fit, so that they can stand for the image."""
        return self.batch_stats == "running" and inner.scope == "head"

    def __deepcopy__(self, memo: dict[int, Any]) -> "StartingPoint":
        """Itself: nothing of it ever changes."""
        return self

    @staticmethod
    def from_encoder(
        encoder: nn.Module,
        images: ImageFormat,
        inner: Inner = USUAL_INNER,
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


def from_source(name: str, weights: str | Path | None = None) -> StartingPoint:
    """The starting point on an encoder of `sources`, frozen and with its running averages.

    One that a user's own function returns is itself, with its inner loop, head and parameters.

    Args:
        weights: a file of safetensors in place of the source's own weights.
    """
    built = sources.build(name, None if weights is None else as_path(weights))
    digest = built.digest or sources.digest_of(built.encoder)
    source = Source(name, digest, not name.startswith("python:") and weights is None)
    if isinstance(built.made, StartingPoint):
        if weights is not None:
            raise InputError(f"{name} returns a starting point, which has its weights: leave out weights")
        return dataclasses.replace(built.made, name=name, source=None if built.made.run else source)
    return from_module(built.encoder, built.images, USUAL_INNER, 0, "running", source, "auto")


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
    measured = TEMPERATURES if inner == USUAL_INNER else TEMPERATURES | {"adapted": 1.0}
    # the encoder's own values, which Model.init draws again for encoders of this library, and a head of zeros
    own = {name: p.detach().clone() for name, p in model.encoder.named_parameters() if name in model.trained}
    like = next(iter(own.values()), torch.zeros(0))
    params = Params(own, Head(like.new_zeros(2, size), like.new_zeros(2)))
    return StartingPoint(source.name, model, params, images, inner, None, source, head or frozen, measured)


def from_run(name: str, run: TrainedRun) -> StartingPoint:
    """The starting point that a trained run is."""
    inner = dataclasses.replace(run.config.inner(), order="first", direction=None)
    head = METHODS[run.config.method].predicts
    model = run.model if run.model.norm == "running" else run.model.with_norm("inductive")
    trained = TEMPERATURES | {"adapted": (run.config.ways / 5) ** FALL_WITH_WAYS["adapted"]}  # 1 for its own tasks
    return StartingPoint(name, model, run.params, format_of(run), inner, run, head=head, temperatures=trained)


def load_starting_point(model: Any, weights: str | Path | None = None) -> StartingPoint:
    """The starting point of that name or in that folder; one that is given is itself.

    Args:
        weights: a file of safetensors for an encoder of `sources`.
    """
    if weights is not None and not (isinstance(model, str) and sources.is_source(model)):
        raise InputError(
            f"weights={str(weights)!r} are for an encoder such as python:package.module:factory: leave it out"
        )
    if isinstance(model, StartingPoint):
        return model
    if not isinstance(model, str | Path):
        raise InputError(f"model={model!r}, but it must be a name, a folder or a StartingPoint")
    if isinstance(model, str) and sources.is_source(model):
        return from_source(model, weights)
    folder = find_model(model)
    facts = _read_format(folder / CONFIG)
    if "source" in facts:
        return rebuild(facts["source"], checkpoint.load(folder / TENSORS).tensors, folder / CONFIG, None)
    start, where = from_run(str(model), _load_saved(folder, facts)), folder / CONFIG
    if "adaptation" in facts:
        start = dataclasses.replace(start, inner=stored_inner(facts["adaptation"], where))
    return dataclasses.replace(start, temperatures=stored_temperatures(facts, where, start.temperatures))


def rebuild(facts: Any, tensors: dict[str, torch.Tensor], where: Path, given: StartingPoint | None) -> StartingPoint:
    """The starting point on an encoder that a file names, a check of its digest included.

    Args:
        facts: what `start_facts` wrote of its source.
        tensors: of the encoder, where they lie in the file.
        given: what the caller says that it is; a user's own code is run only then.
    """
    source, images, inner = stored_source(facts, where)

    def start_from(encoder: nn.Module, whose: str, size: int = 0, digest: str | None = None) -> StartingPoint:
        if tensors:
            sources.load_tensors(encoder, tensors, f"{where}: its tensors are not those of {whose}")
            digest = None  # of other weights
        known = Source(source.name, digest or sources.digest_of(encoder), source.can_build)
        return from_module(encoder, images, inner, size, facts["batch_stats"], known, facts["head"])

    if given is None:
        if not source.can_build and not tensors:
            raise InputError(
                f"{where} starts from the encoder {source.name}, which cannot be rebuilt from its name alone: give it "
                "again (model=...)"
            )
        if not sources.is_source(source.name) or source.name.startswith("python:"):
            raise InputError(f"{where} starts from the user's own encoder {source.name}: give it again (model=...)")
        built = sources.build(source.name, trained=not tensors)
        given = start_from(built.encoder, source.name, digest=built.digest)
    elif tensors:
        given = start_from(given.encoder, "the model that is given", given.model.feature_size)
    digest = given.source.digest if given.source else "none"
    expected = facts.get("stored_digest") if tensors else source.digest
    if digest != expected:
        raise InputError(
            f"{where} was made with other weights of {source.name} (SHA-256 {str(expected)[:12]}…, these have "
            f"{digest[:12]}…): give the same ones, or fit again"
        )
    if given.batch_stats != facts["batch_stats"]:
        raise InputError(
            f"{where} was made with batch_stats={facts['batch_stats']!r}, but the model that is given has "
            f"{given.batch_stats!r}: give the same"
        )
    brought = {"head": facts["head"], "temperatures": stored_temperatures(facts, where, given.temperatures)}
    return dataclasses.replace(given, images=images, inner=inner, source=source, **brought)


def start_facts(start: StartingPoint, weights_inside: bool) -> dict[str, Any]:
    """What a file says of a starting point: its run, or the encoder from elsewhere that it stands on.

    Args:
        weights_inside: the file holds the weights of an encoder from elsewhere too.
    """
    adapts = {"adaptation": start.inner.plain_values(), "temperatures": dict(start.temperatures)}
    if start.run is not None:
        return {"updates": start.run.updates, "config": dataclasses.asdict(start.run.config)} | adapts
    assert start.source is not None
    if weights_inside and start.batch_stats == "support":
        raise InputError(
            f"the weights of {start.name} cannot be written beside the statistics of a support set: leave out "
            "weights_inside"
        )
    about = dataclasses.asdict(start.source) | {"batch_stats": start.batch_stats, "head": start.head}
    about |= {"images": dataclasses.asdict(start.images)} | adapts
    return {"source": about | ({"stored_digest": sources.digest_of(start.encoder)} if weights_inside else {})}


def load_model(model: str | Path) -> TrainedRun:
    """The trained model of that name, or in that folder or file; one that was saved adapts as it was saved to."""
    if Path(model).is_file():
        return load_run(model)
    folder = find_model(model)
    facts = _read_format(folder / CONFIG)
    if "source" in facts:
        raise InputError(f"{folder} holds an encoder from elsewhere, not a model trained here: give it to fit")
    run = _load_saved(folder, facts)
    if "adaptation" not in facts:
        return run
    inner = stored_inner(facts["adaptation"], folder / CONFIG)
    fields = {"inner_steps": inner.steps, "inner_lr": inner.lr, "inner_scope": inner.scope, "inner_loss": inner.loss}
    return dataclasses.replace(run, config=dataclasses.replace(run.config, **fields, eval_steps=(inner.steps,)))


def save_starting_point(start: StartingPoint, folder: Path, *, weights_inside: bool = False) -> None:
    """Write `config.json` and `model.safetensors`; a classifier that starts from them adapts as `start.inner` says.

    Args:
        weights_inside: of an encoder from elsewhere, write its weights; otherwise its name and digest are written.
    """
    check_replaceable(folder, FORMAT)
    about = start_facts(start, weights_inside)
    facts: dict[str, Any] = {"format": FORMAT, "format_version": VERSION if start.run is None else 1}
    if start.run is not None:
        images = dataclasses.asdict(start.images)
        facts["images"] = {name: value for name, value in images.items() if value is not None}
    facts |= about
    with atomic_path(folder / CONFIG) as temporary:  # which replaces the old one after the tensors did, or neither does
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        if start.run is not None:
            save_model(folder, start.run)
        else:
            tensors = sources.stored_tensors(start.encoder) if weights_inside else {}
            checkpoint.save(folder / TENSORS, checkpoint.Stored(tensors, {}))


def check_format(text: bytes, file: Path, known: str, version: int) -> dict[str, Any]:
    """What a configuration file says, after a check of its format and version."""
    try:
        facts = parse_json(text)
    except ValueError as error:
        raise InputError(
            f"{file} cannot be read ({error}): the folder is incomplete or damaged, copy it again"
        ) from error
    if not isinstance(facts, dict) or facts.get("format") != known:
        raise InputError(f"{file} is not that of a {known}: check the folder's name")
    if facts.get("format_version") not in range(1, version + 1):
        raise InputError(
            f"{file} has format version {facts.get('format_version')}, this library reads 1 to {version}: "
            "use the version of metacontrast that wrote it, or a newer one"
        )
    return facts


def check_replaceable(folder: Path, known: str) -> None:
    """Raise when `folder` cannot be written, or holds a model of another kind, such as a training run."""
    check_writable(folder)
    is_taken = any((folder / name).exists() for name in (CONFIG, TENSORS))
    if is_taken and read_facts(folder / CONFIG).get("format") != known:
        raise InputError(f"{folder} holds files that are not those of a {known}: choose another folder to write to")


def _load_saved(folder: Path, facts: dict[str, Any]) -> TrainedRun:
    """The model of a folder; of one that was saved, its two files must belong together."""
    run, where = load_run(folder), folder / CONFIG
    if "adaptation" in facts:
        described = config_from_values(facts.get("config"), str(where)), facts.get("updates")
        if described != (run.config, run.updates):
            raise InputError(f"{where} describes another model than {TENSORS} beside it: restore both from one copy")
    return run


def _read_format(file: Path) -> dict[str, Any]:
    """A run directory's configuration names no format; a saved model's must be one that is known here."""
    if not file.exists() and not file.with_name(TENSORS).exists():
        raise InputError(f"{file.parent} holds no trained model yet: train at least to the first checkpoint")
    try:
        text = file.read_bytes()
        facts = parse_json(text)
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}): the folder holds no model or is incomplete") from error
    if isinstance(facts, dict) and facts.get("format") == "metacontrast-classifier":
        raise InputError(
            f"{file.parent} holds a fitted classifier, not a meta-trained model: give the model that it was fitted "
            "from (`metacontrast predict` and FewShotClassifier.load take the classifier)"
        )
    return check_format(text, file, FORMAT, VERSION) if not isinstance(facts, dict) or "format" in facts else facts
