"""A fitted classifier in a folder: `config.json`, which a person can read, and `model.safetensors`, which it names.

The tensors are the meta-trained start, the support images and the adapted network; a digest ties them to the
configuration, so that files of different classifiers are not taken for one. An encoder from elsewhere that stays frozen
is written as its name and digest, or with its weights where that is asked for; features and small pictures then stand
for the support images.

Saving over a classifier writes `model-N.safetensors` beside the old file, N being the next number, then replaces
`config.json` in one step, then removes the old file: a concurrent reader finds one complete classifier, the old or the
new, and needs no lock.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metacontrast.classifier.candidates import Candidate, Plan
from metacontrast.classifier.cross_validation import Score
from metacontrast.classifier.fitted import Fitted, Network
from metacontrast.classifier.inputs import from_json, to_json
from metacontrast.classifier.starting_point import (
    StartingPoint,
    check_format,
    check_replaceable,
    from_run,
    rebuild,
    start_facts,
)
from metacontrast.classifier.stored_values import (
    CLASSIFIER_RULES,
    RUN_RULES,
    check_values,
    stored_images,
    stored_temperatures,
)
from metacontrast.classifier.support import Support
from metacontrast.errors import InputError
from metacontrast.files import as_utf8, exclusive, is_folder, remove_leftovers, why_no_folder, write_text
from metacontrast.model.frozen import frozen_like
from metacontrast.training import checkpoint, sources
from metacontrast.training.checkpoint import ModelFacts
from metacontrast.training.config import config_from_values
from metacontrast.training.run import CONFIG, run_from_tensors, run_tensors
from metacontrast.training.sources import TENSORS
from metacontrast.types import Head, Inner

FORMAT, VERSION = "metacontrast-classifier", 3
LOCK_SECONDS = 60.0
_PATTERN = "model*.safetensors"


@dataclass(frozen=True)
class State:
    """All that `fit` made: what it started from, what it learned from, how it was to learn, and what came of it."""

    start: StartingPoint
    support: Support
    plan: Plan
    fitted: Fitted


def save(folder: Path, state: State, parameters: dict[str, Any], *, weights_inside: bool = False) -> None:
    """Write the two files; `parameters` are those of the classifier but its model.

    Args:
        weights_inside: write the weights of an encoder from elsewhere too.
    """
    check_replaceable(folder, FORMAT)
    facts, tensors = _facts(state, parameters, weights_inside), _tensors(state, weights_inside)
    with exclusive(
        folder / ".lock", f"another process is saving to {folder}: wait or choose another folder", LOCK_SECONDS
    ):
        is_replaced = (folder / CONFIG).exists()
        before = {file: n for file in folder.glob(_PATTERN) if (n := _number(file.name)) is not None}
        number = 1 + max(before.values(), default=-1)
        _write(folder, facts | {"tensors": f"model-{number}.safetensors" if number else TENSORS}, tensors)
        for file in before if is_replaced else ():
            file.unlink(missing_ok=True)


def load(folder: Path, given: StartingPoint | None = None) -> tuple[State, dict[str, Any]]:
    """What `save` wrote; where another process saves meanwhile, what was there before or is there then.

    Args:
        given: the starting point, where it cannot be rebuilt from its name.
    """
    if not is_folder(folder):
        raise InputError(f"{folder} {why_no_folder(folder)}; give the folder that `metacontrast fit --out` wrote")
    text = _read_config(folder)
    while True:
        try:
            return _load(folder, text, given)
        except InputError:
            before, text = text, _read_config(folder)
            if before == text:
                raise


def _write(folder: Path, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write the tensors, then the configuration that names them, or neither."""
    text = json.dumps(facts, indent=1, ensure_ascii=False, default=_plain) + "\n"
    for name in (CONFIG, _PATTERN):
        remove_leftovers(folder, name)
    try:
        digest = hashlib.sha256(as_utf8(text)).hexdigest()
        checkpoint.save(folder / facts["tensors"], checkpoint.Stored(tensors, {"config": digest}))
        write_text(folder / CONFIG, text)
    except BaseException:
        with contextlib.suppress(OSError, InputError):
            if not (folder / CONFIG).exists() or _read_config(folder) != as_utf8(text):
                (folder / facts["tensors"]).unlink(missing_ok=True)
        raise


def _read_config(folder: Path) -> bytes:
    try:
        return (folder / CONFIG).read_bytes()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not any(folder.glob(_PATTERN)):
            raise InputError(
                f"{folder} holds no fitted classifier: give the folder that `metacontrast fit --out` wrote"
            ) from error
        raise InputError(f"{folder / CONFIG} cannot be read ({error.strerror}): the folder is incomplete") from error


def _load(folder: Path, text: bytes, given: StartingPoint | None) -> tuple[State, dict[str, Any]]:
    facts = check_format(text, folder / CONFIG, FORMAT, VERSION)
    name = facts.get("tensors", TENSORS)
    if _number(name) is None:
        raise InputError(f"{folder / CONFIG} names tensors {name!r}, which is not a file of a classifier: fit it again")
    stored = checkpoint.load(folder / name)
    if stored.facts.get("config") != hashlib.sha256(text).hexdigest():
        raise InputError(f"{folder}: {CONFIG} and {name} do not belong together: restore both from one copy")
    if isinstance(facts.get("plan"), dict):
        facts["plan"].setdefault("random_head", None)  # which earlier versions did not know
    facts = _as_of_today(facts)
    check_values(facts, CLASSIFIER_RULES, folder / CONFIG)
    try:
        return _state(facts, stored.tensors, folder, given), facts["parameters"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder / CONFIG} does not describe a classifier ({error}): fit it again") from error


def _number(name: Any) -> int | None:
    """N of `model-N.safetensors`, 0 of `model.safetensors`, None of anything else."""
    found = re.fullmatch(r"model(-[1-9][0-9]{0,17})?\.safetensors", name) if isinstance(name, str) else None
    return found and int((found[1] or "-0")[1:])


def _as_of_today(facts: dict[str, Any]) -> dict[str, Any]:
    """What the first two formats said, in the words of the third: they knew two heads and no prediction sets."""
    try:
        if facts["format_version"] > 2:
            return facts
        adaptation, plan = dict(facts["adaptation"]), dict(facts["plan"])
        adaptation |= {"method": "adapted" if adaptation["steps"] else "prototype", "strength": 0.0}
        baseline = plan.pop("baseline")
        plan |= {"head": {"none": "adapted"}.get(baseline, baseline), "fallback": "adapted"}
        return facts | {"adaptation": adaptation, "plan": plan, "true_probabilities": []}
    except (KeyError, TypeError, ValueError):
        return facts


def _facts(state: State, parameters: dict[str, Any], weights_inside: bool) -> dict[str, Any]:
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
        "held_out": len(fitted.true_probabilities),
        "true_probabilities": fitted.true_probabilities,
        "compare": [dataclasses.asdict(score) for score in fitted.scores],
        "plan": dataclasses.asdict(state.plan) | {"inner": state.plan.inner.plain_values()},
        "model": {"name": state.start.name} | start_facts(state.start, weights_inside),
        "support": state.support.names,
    }


def _tensors(state: State, weights_inside: bool) -> dict[str, Tensor]:
    start, support = state.start, state.support
    own = sources.stored_tensors(start.encoder) if start.run is None and weights_inside else {}
    before = own if start.run is None else run_tensors(start.run)
    network = state.fitted.network.state_dict()
    if support.features is not None:
        network = {name: t for name, t in network.items() if not name.startswith("encoder.")}
    found = {f"start.{name}": t for name, t in before.items()} | {f"network.{name}": t for name, t in network.items()}
    found |= {"support.images": support.images, "support.y": support.y}
    return found if support.features is None else found | {"support.features": support.features}


def _state(facts: dict[str, Any], tensors: dict[str, Tensor], folder: Path, given: StartingPoint | None) -> State:
    start = _start(facts, _below("start.", tensors), folder, given)
    support = _support(facts, tensors, start, folder)
    plan = Plan(**(facts["plan"] | {"inner": Inner(**facts["plan"]["inner"])}))
    fitted = Fitted(
        _network(start, support, _below("network.", tensors)),
        Candidate(**facts["adaptation"]),
        facts["temperature"],
        facts["threshold"],
        tuple(Score(**score) for score in facts["compare"]),
        tuple(facts["true_probabilities"]),
    )
    return State(start, support, plan, fitted)


def _support(facts: dict[str, Any], tensors: dict[str, Tensor], start: StartingPoint, folder: Path) -> Support:
    images, y, names = tensors["support.images"], tensors["support.y"], facts["support"]
    features = tensors.get("support.features")
    shape = start.images.shape if features is None else tuple(images.shape[1:])
    is_whole = (images.dtype, y.dtype, tuple(images.shape)) == (torch.uint8, torch.int64, (len(names), *shape))
    if features is not None:
        size = (len(names), start.model.feature_size)
        is_whole = is_whole and images.ndim == 4 and tuple(features.shape) == size and bool(features.isfinite().all())
    if not is_whole or y.shape != (len(names),) or not 0 <= int(y.min()) <= int(y.max()) < len(facts["classes"]):
        raise InputError(f"{folder}: the support images are not those that {CONFIG} describes: fit it again")
    support = Support(images, y, tuple(names), tuple(map(from_json, facts["classes"])), features)
    if support.counts.tolist() != facts["counts"]:
        raise InputError(
            f"{folder / CONFIG}: counts is {facts['counts']}, but the classes have {support.counts.tolist()} images: "
            "restore the file or fit again"
        )
    return support


def _start(
    facts: dict[str, Any], tensors: dict[str, Tensor], folder: Path, given: StartingPoint | None
) -> StartingPoint:
    about = facts["model"]
    if "source" in about:
        return rebuild(about["source"], tensors, folder / CONFIG, given)
    check_values(facts, RUN_RULES, folder / CONFIG)
    config = config_from_values(about["config"], str(folder / CONFIG))
    form = stored_images(facts["images"], folder / CONFIG)
    known = ModelFacts(about["updates"], form.shape, form.mean, form.std)
    run = run_from_tensors(config, known, tensors, str(folder / TENSORS))
    if given is not None and (given.run is None or not _are_equal(run_tensors(given.run), run_tensors(run))):
        raise InputError(f"{folder} holds its own model, {about['name']}, and {given.name} is another: leave it out")
    start = from_run(about["name"], run)
    temperatures = stored_temperatures(about, folder / CONFIG, start.temperatures)
    return dataclasses.replace(start, inner=Inner(**about["adaptation"]), temperatures=temperatures)


def _are_equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


def _network(start: StartingPoint, support: Support, tensors: dict[str, Tensor]) -> Network:
    """The network as it was; of before the third format, similarity is seen from 0."""
    size, ways = start.model.feature_size, len(support.classes)
    head = Head(torch.zeros(ways, size), torch.zeros(ways))
    frozen = support.features is not None
    encoder = start.frozen_encoder if frozen else frozen_like(start.model)
    network = Network(encoder, head, torch.zeros(ways, size), start.images)
    if frozen:
        tensors = tensors | {f"encoder.{name}": t for name, t in encoder.state_dict().items()}
    network.load_state_dict({"centre": torch.zeros(size)} | tensors)
    if not all(t.isfinite().all() for t in network.state_dict().values()):
        raise InputError("the network of the saved classifier holds values that are not finite: fit it again")
    return network.eval()


def _plain(value: Any) -> Any:
    """A NumPy number as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise InputError(f"a parameter is a {type(value).__name__}, which cannot be written to {CONFIG}: use plain values")


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
