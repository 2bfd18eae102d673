"""What a classifier starts from: a meta-trained model, or any encoder, with the kind of images that it sees.

A model is named by one of the models that come with the package, or by a folder: what `metacontrast train` wrote, or
what `save_starting_point` wrote (`config.json` and `model.safetensors`).
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metacontrast.classifier.image_format import ImageFormat
from metacontrast.classifier.stored_values import stored_inner
from metacontrast.data.catalog import DATASETS, FOLDER
from metacontrast.errors import InputError, did_you_mean
from metacontrast.files import as_path, check_writable, is_folder, parse_json, write_text
from metacontrast.maml.inner import Inner
from metacontrast.model.model import Model
from metacontrast.training.config import TrainConfig
from metacontrast.training.run import TrainedRun, load_run, save_model
from metacontrast.types import Params, map_params

PRETRAINED = Path(__file__).parents[1] / "pretrained"
FORMAT, VERSION = "metacontrast-model", 1
CONFIG, TENSORS = "config.json", "model.safetensors"


@dataclass(frozen=True, eq=False, repr=False)
class StartingPoint:
    """A model before it has seen a class.

    Args:
        name: what messages call it.
        model, params: the model under the inductive policy and its parameters.
        images: what it takes.
        inner: how it adapts unless told otherwise.
        run: the trained run behind it, if there is one.
    """

    name: str
    model: Model
    params: Params
    images: ImageFormat
    inner: Inner
    run: TrainedRun | None = None

    def __repr__(self) -> str:
        return f"<StartingPoint {self.name}>"

    def params_on(self, device: str) -> Params:
        """The parameters on `device`."""
        return map_params(lambda t: t.to(device), self.params)

    def __deepcopy__(self, memo: dict[int, Any]) -> "StartingPoint":
        """Itself: nothing of it ever changes."""
        return self

    @staticmethod
    def from_encoder(encoder: nn.Module, images: ImageFormat, inner: Inner, feature_size: int = 0) -> "StartingPoint":
        """Any module from images `(batch, channel, height, width)` to features `(batch, feature)`, as it is.

        Its batch norms are given the statistics of the support images in place of their running averages, and it is
        put in evaluation mode, in a copy. Such a start cannot be saved.

        Args:
            images: what the encoder takes.
            inner: how to adapt it; scope `head` leaves it frozen.
            feature_size: length of a feature vector; needed when the module has no attribute `feature_size`.
        """
        model = Model(encoder, ways=2, feature_size=feature_size, head="zeroed", norm="inductive")
        return StartingPoint(type(encoder).__name__, model, model.init(torch.Generator()), images, inner)


def load_starting_point(model: Any) -> StartingPoint:
    """The starting point of that name or in that folder; one that is given is itself."""
    if isinstance(model, StartingPoint):
        return model
    if not isinstance(model, str | Path):
        raise InputError(f"model={model!r}, but it must be a name, a folder or a StartingPoint")
    folder = find_model(model)
    facts = _read_format(folder / CONFIG)
    start = from_run(str(model), load_run(folder))
    chosen = facts.get("adaptation")
    return start if chosen is None else dataclasses.replace(start, inner=stored_inner(chosen, folder / CONFIG))


def load_model(model: str | Path) -> TrainedRun:
    """The trained model of that name or in that folder; one that was saved adapts as it was saved to."""
    folder = find_model(model)
    facts, run = _read_format(folder / CONFIG), load_run(folder)
    if "adaptation" not in facts:
        return run
    inner = stored_inner(facts["adaptation"], folder / CONFIG)
    fields = {"inner_steps": inner.steps, "inner_lr": inner.lr, "inner_scope": inner.scope, "inner_loss": inner.loss}
    return dataclasses.replace(run, config=dataclasses.replace(run.config, **fields, eval_steps=(inner.steps,)))


def save_starting_point(start: StartingPoint, folder: Path) -> None:
    """Write `config.json` and `model.safetensors`; `start.inner` becomes how the model adapts unless told otherwise."""
    if start.run is None:
        raise InputError(
            f"{start.name} is not a model of this library and cannot be saved: keep it where it comes from"
        )
    check_replaceable(folder, FORMAT)
    save_model(folder, start.run)
    facts = {"format": FORMAT, "format_version": VERSION, "images": dataclasses.asdict(start.images)}
    facts |= {"adaptation": start.inner.plain_values()}
    facts |= {"updates": start.run.updates, "config": dataclasses.asdict(start.run.config)}
    write_text(folder / CONFIG, json.dumps(facts, indent=1) + "\n")


def pretrained_names() -> list[str]:
    """The models that come with the package."""
    return sorted(file.parent.name for file in PRETRAINED.glob(f"*/{TENSORS}"))


def find_model(model: str | Path) -> Path:
    """The folder of a model."""
    names = pretrained_names()
    if str(model) in names:
        return PRETRAINED / str(model)
    folder = as_path(model)
    if not (is_folder(folder) and str(model).strip()):
        known, hint, name = ", ".join(names) or "none is installed", did_you_mean(model, names), str(model) or "''"
        raise InputError(f"{name} is not a run directory, nor a model that comes along ({known}): {hint}check the name")
    return folder


def from_run(name: str, run: TrainedRun) -> StartingPoint:
    """The starting point that a trained run is."""
    channels, size, _ = run.image_shape
    images = ImageFormat(channels, size, _resample(run.config), run.config.invert, run.mean, run.std)
    inner = dataclasses.replace(run.config.inner(), order="first")
    return StartingPoint(name, run.model.with_norm("inductive"), run.params, images, inner, run)


def check_format(text: bytes, file: Path, known: str, version: int) -> dict[str, Any]:
    """What a configuration file says, after a check of its format and version."""
    try:
        facts = parse_json(text)
    except ValueError as error:
        raise InputError(
            f"{file} cannot be read ({error}): the folder is incomplete or damaged, copy it anew"
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


def _resample(config: TrainConfig) -> Any:
    return config.resample or DATASETS.get(config.dataset, FOLDER).resample
