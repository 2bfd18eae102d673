"""Models by name and in folders: what a classifier may start from, found, read and written.

A model is named by one of the models that come with the package, by a folder, which is what `metacontrast train` wrote
or what `save_starting_point` wrote (`config.json` and `model.safetensors`), or by a source of encoders (see `sources`).
An encoder from elsewhere is written as its name and the digest of its weights, or with its weights.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from metacontrast.classifier import sources
from metacontrast.classifier.image_format import ImageFormat
from metacontrast.classifier.sources import Source
from metacontrast.classifier.starting_point import StartingPoint, from_module, from_run, from_source
from metacontrast.classifier.stored_values import stored_inner, stored_source
from metacontrast.errors import InputError, did_you_mean
from metacontrast.files import as_path, check_writable, is_folder, parse_json, write_text
from metacontrast.training import checkpoint
from metacontrast.training.run import TrainedRun, load_run, save_model

PRETRAINED = Path(__file__).parents[1] / "pretrained"
FORMAT, VERSION = "metacontrast-model", 2
CONFIG, TENSORS = "config.json", "model.safetensors"


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
        return _load_sourced(facts, folder)
    start = from_run(str(model), load_run(folder))
    chosen = facts.get("adaptation")
    return start if chosen is None else dataclasses.replace(start, inner=stored_inner(chosen, folder / CONFIG))


def rebuild(facts: Any, tensors: dict[str, torch.Tensor], where: Path, given: StartingPoint | None) -> StartingPoint:
    """The starting point on an encoder that a file names, a check of its digest included.

    Args:
        facts: what `source_facts` wrote.
        tensors: of the encoder, where they lie in the file.
        given: what the caller says that it is; a user's own code is run only then.
    """
    source, images, inner = stored_source(facts, where)
    if given is None:
        if not source.can_build and not tensors:
            raise InputError(
                f"{where} starts from the encoder {source.name}, which cannot be rebuilt from its name alone: give it "
                "again (model=...)"
            )
        if not sources.is_source(source.name) or source.name.startswith("python:"):
            raise InputError(f"{where} starts from the user's own encoder {source.name}: give it again (model=...)")
        built = sources.build(source.name, trained=not tensors)
        if tensors:
            sources.load_tensors(built.encoder, tensors, f"{where}: its tensors are not those of {source.name}")
        digest = built.digest if built.digest and not tensors else sources.digest_of(built.encoder)
        known = Source(source.name, digest, source.can_build)
        given = from_module(built.encoder, images, inner, 0, facts["batch_stats"], known, facts["head"])
    digest = given.source.digest if given.source else "none"
    expected = facts.get("stored_digest") if tensors else source.digest
    if digest != expected:
        raise InputError(
            f"{where} was made with other weights of {source.name} (SHA-256 {str(expected)[:12]}…, these have "
            f"{digest[:12]}…): give the same ones, or fit again"
        )
    return dataclasses.replace(given, images=images, inner=inner, head=facts["head"], source=source)


def source_facts(start: StartingPoint, stored: bool) -> dict[str, Any]:
    """What a file says of a starting point on an encoder from elsewhere."""
    assert start.source is not None
    if stored and start.batch_stats == "support":
        raise InputError(
            f"the weights of {start.name} cannot be written beside the statistics of a support set: leave out "
            "weights_inside"
        )
    about = dataclasses.asdict(start.source) | {"batch_stats": start.batch_stats, "head": start.head}
    about |= {"images": dataclasses.asdict(start.images), "adaptation": start.inner.plain_values()}
    return about | {"stored_digest": sources.digest_of(start.model.encoder)} if stored else about


def source_tensors(start: StartingPoint) -> dict[str, torch.Tensor]:
    """The encoder's weights."""
    return sources.stored_tensors(start.model.encoder)


def load_model(model: str | Path) -> TrainedRun:
    """The trained model of that name or in that folder; one that was saved adapts as it was saved to."""
    folder = find_model(model)
    facts = _read_format(folder / CONFIG)
    if "source" in facts:
        raise InputError(f"{folder} holds an encoder from elsewhere, not a model trained here: give it to fit")
    run = load_run(folder)
    if "adaptation" not in facts:
        return run
    inner = stored_inner(facts["adaptation"], folder / CONFIG)
    fields = {"inner_steps": inner.steps, "inner_lr": inner.lr, "inner_scope": inner.scope, "inner_loss": inner.loss}
    return dataclasses.replace(run, config=dataclasses.replace(run.config, **fields, eval_steps=(inner.steps,)))


def save_starting_point(start: StartingPoint, folder: Path, *, weights_inside: bool = False) -> None:
    """Write `config.json` and `model.safetensors`; `start.inner` becomes how the model adapts unless told otherwise.

    Args:
        weights_inside: of an encoder from elsewhere, write its weights; otherwise its name and digest are written.
    """
    check_replaceable(folder, FORMAT)
    facts: dict[str, Any] = {"format": FORMAT, "format_version": VERSION if start.run is None else 1}
    if start.run is None:
        tensors = source_tensors(start) if weights_inside else {}
        checkpoint.save(folder / TENSORS, checkpoint.Stored(tensors, {}))
        facts |= {"source": source_facts(start, weights_inside)}
    else:
        save_model(folder, start.run)
        facts |= {"images": _image_facts(start.images), "adaptation": start.inner.plain_values()}
        facts |= {"updates": start.run.updates, "config": dataclasses.asdict(start.run.config)}
    write_text(folder / CONFIG, json.dumps(facts, indent=1) + "\n")


def _image_facts(images: ImageFormat) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(images).items() if name != "crop" or value is not None}


def _load_sourced(facts: dict[str, Any], folder: Path) -> StartingPoint:
    return rebuild(facts["source"], checkpoint.load(folder / TENSORS).tensors, folder / CONFIG, None)


def pretrained_names() -> list[str]:
    """The models that come with the package, and the photo encoders that are installed."""
    return sorted([file.parent.name for file in PRETRAINED.glob(f"*/{TENSORS}")] + sources.bundled_names())


def find_model(model: str | Path) -> Path:
    """The folder of a model."""
    if str(model) in pretrained_names() and (PRETRAINED / str(model) / TENSORS).is_file():
        return PRETRAINED / str(model)
    folder = as_path(model)
    if not (is_folder(folder) and str(model).strip()):
        names = pretrained_names()
        known, name = ", ".join(names) or "none is installed", str(model) or "''"
        hint = did_you_mean(model, names)
        raise InputError(
            f"{name} is not a run directory, nor a model that is installed ({known}): {hint}check the name"
        )
    return folder


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
    if any((folder / name).exists() for name in (CONFIG, TENSORS)) and _format_of(folder / CONFIG) != known:
        raise InputError(f"{folder} holds files that are not those of a {known}: choose another folder to write to")


def _format_of(file: Path) -> str | None:
    try:
        return parse_json(file.read_text(encoding="utf-8"))["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
