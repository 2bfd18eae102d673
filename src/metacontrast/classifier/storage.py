"""A fitted classifier in a folder: `config.json`, which a person can read, and `model.safetensors`.

The tensors are the meta-trained start, the support images and the adapted network; a digest ties them to the
configuration, so that files of different classifiers are not taken for one.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metacontrast.classifier.candidates import Candidate
from metacontrast.classifier.cross_validation import Score
from metacontrast.classifier.fitted import Fitted, Network
from metacontrast.classifier.image_format import ImageFormat
from metacontrast.classifier.labels import from_json, to_json
from metacontrast.classifier.plan import Plan
from metacontrast.classifier.starting_point import (
    CONFIG,
    TENSORS,
    StartingPoint,
    check_replaceable,
    from_run,
    read_facts,
)
from metacontrast.classifier.support import Support
from metacontrast.errors import InputError
from metacontrast.files import write_text
from metacontrast.maml.inner import Inner
from metacontrast.model.frozen import frozen_like
from metacontrast.training import checkpoint
from metacontrast.training.config import config_from_values
from metacontrast.training.run import TrainedRun
from metacontrast.types import Head

FORMAT, VERSION = "metacontrast-classifier", 1


@dataclass(frozen=True)
class State:
    """All that `fit` made.

    Args:
        start: what was started from.
        support: what was learned from.
        plan: how it was to be learned.
        fitted: what came of it.
    """

    start: StartingPoint
    support: Support
    plan: Plan
    fitted: Fitted


def save(folder: Path, state: State, parameters: dict[str, Any]) -> None:
    """Write the two files; `parameters` are those of the classifier but its model."""
    if state.start.run is None:
        raise InputError(f"{state.start.name} is not a model of this library: a classifier on it cannot be saved")
    check_replaceable(folder, FORMAT)
    facts = _facts(state, state.start.run, parameters)
    text = json.dumps(facts, indent=1, ensure_ascii=False, default=_plain) + "\n"
    stored = checkpoint.Stored(_tensors(state), {"config": _digest(text)})
    checkpoint.save(folder / TENSORS, stored)
    write_text(folder / CONFIG, text)


def load(folder: Path) -> tuple[State, dict[str, Any]]:
    """What `save` wrote."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the one that `metacontrast fit --out` wrote")
    facts = read_facts(folder / CONFIG, FORMAT, VERSION)
    stored = checkpoint.load(folder / TENSORS)
    if stored.facts.get("config") != _digest((folder / CONFIG).read_text(encoding="utf-8")):
        raise InputError(f"{folder}: {CONFIG} and {TENSORS} do not belong together: restore both from one copy")
    try:
        return _state(facts, stored.tensors, folder), facts["parameters"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder / CONFIG} does not describe a classifier ({error}): fit it again") from error


def _facts(state: State, run: TrainedRun, parameters: dict[str, Any]) -> dict[str, Any]:
    fitted = state.fitted
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "classes": [to_json(label) for label in state.support.classes],
        "counts": state.support.counts.tolist(),
        "parameters": parameters,
        "images": dataclasses.asdict(state.start.images),
        "adaptation": dataclasses.asdict(fitted.candidate),
        "temperature": fitted.temperature,
        "threshold": fitted.threshold,
        "held_out": fitted.held_out,
        "compare": [dataclasses.asdict(score) for score in fitted.scores],
        "plan": dataclasses.asdict(state.plan),
        "model": {
            "name": state.start.name,
            "updates": run.updates,
            "config": dataclasses.asdict(run.config),
            "adaptation": dataclasses.asdict(state.start.inner),
        },
        "support": state.support.names,
    }


def _tensors(state: State) -> dict[str, Tensor]:
    start = {f"start.{name}": t for name, t in checkpoint.params_to_tensors(state.start.params).items()}
    network = {f"network.{name}": t for name, t in state.fitted.network.state_dict().items()}
    return start | network | {"support.images": state.support.images, "support.y": state.support.y}


def _state(facts: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> State:
    start = _start(facts, _below("start.", tensors), folder)
    images, y = tensors["support.images"], tensors["support.y"]
    support = Support(images, y, tuple(facts["support"]), tuple(map(from_json, facts["classes"])))
    plan = Plan(**(facts["plan"] | {"inner": Inner(**facts["plan"]["inner"])}))
    fitted = Fitted(
        _network(start, len(support.classes), _below("network.", tensors)),
        Candidate(**facts["adaptation"]),
        facts["temperature"],
        facts["threshold"],
        facts["held_out"],
        tuple(Score(**score) for score in facts["compare"]),
    )
    return State(start, support, plan, fitted)


def _start(facts: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> StartingPoint:
    about, images = facts["model"], facts["images"]
    config = config_from_values(about["config"], str(folder / CONFIG))
    form = ImageFormat(**images | {"mean": tuple(images["mean"]), "std": tuple(images["std"])})
    model = config.model(form.shape)
    params = checkpoint.params_from_tensors(model.empty_params(), tensors, str(folder / TENSORS))
    run = TrainedRun(config, model, params, about["updates"], form.shape, form.mean, form.std)
    return dataclasses.replace(from_run(about["name"], run), inner=Inner(**about["adaptation"]))


def _network(start: StartingPoint, ways: int, tensors: dict[str, Tensor]) -> Network:
    size = start.model.feature_size
    head = Head(torch.zeros(ways, size), torch.zeros(ways))
    network = Network(frozen_like(start.model), head, torch.zeros(ways, size), start.images)
    network.load_state_dict(tensors)
    return network.eval()


def _plain(value: Any) -> Any:
    """A NumPy number as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written to {CONFIG}")


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
