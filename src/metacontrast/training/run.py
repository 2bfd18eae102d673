"""A run directory: `config.json`, `records.jsonl`, `model.safetensors`, and the last two states for resuming.

With `keep_every`, also `checkpoints/NNNNNN.safetensors`: the model after NNNNNN updates. With `select`, also
`best.safetensors`: the one that was most accurate on the split that is evaluated on.
"""

import contextlib
import copy
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError
from metacontrast.files import as_path, exclusive, parse_json, remove_leftovers, write_text
from metacontrast.methods.batches import CLASSIFIER
from metacontrast.model.model import Model
from metacontrast.training import checkpoint, records
from metacontrast.training.checkpoint import BEFORE, LAST, ModelFacts, TrainState, load_state, store_state
from metacontrast.training.config import TrainConfig, config_from_values
from metacontrast.training.sources import TENSORS, digest_of_start
from metacontrast.types import Params, map_params, to_named

CONFIG, RECORDS, _MODEL = "config.json", "records.jsonl", TENSORS
_FIXED = "fixed."
_BOOKKEEPING = {
    *("eval_every", "eval_steps", "eval_episodes", "eval_split", "select"),
    *("checkpoint_every", "keep_every", "explain_every"),
}
"""Fields that a resumed run may change: the parameters do not depend on them."""

_KEPT, BEST = "checkpoints", "best.safetensors"

logger = logging.getLogger("metacontrast")


@dataclass(frozen=True)
class RunDirectory:
    """A folder that one training writes to.

    Args:
        facts: what `model.safetensors` says of itself: configuration, data and image normalization.
        fixed: tensors of the encoder that no training moves.
    """

    path: Path
    facts: dict[str, Any]
    fixed: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def restore(self, state: TrainState) -> TrainState:
        """`state` as it was at the last checkpoint, or as given when there is none; later records are dropped.

        Where the last checkpoint is damaged it is the one before it, and a warning says so. A model that is damaged or
        of another update is written again.

        Raises:
            InputError: there is a trained model and no state.
        """
        model, file = self.path / _MODEL, self.path / RECORDS
        if stored := load_state(self.path):
            state = checkpoint.restore_state(state, stored, str(self.path / LAST))
            if problem := self._problem_of_model(state):
                logger.warning("%s; it is written again from the checkpoint after update %d", problem, state.updates)
                self.write_model(model, state.params, state.updates)
        elif model.exists():
            raise InputError(
                f"{self.path} has a {_MODEL} but no {LAST} to go on from: restore it, or choose another folder"
            )
        if (known := records.forget_after(file, state.updates)) < state.updates:
            logger.warning("%s ends at update %d, and the last checkpoint is of %d", file, known, state.updates)
        return state

    def _problem_of_model(self, state: TrainState) -> str | None:
        """Why the model for use is not that of the state."""
        file = self.path / _MODEL
        try:
            stored = checkpoint.load(file)
            _moved_params(stored, state.params, file)
        except InputError as error:
            return str(error)
        found = stored.facts.get("updates")
        return None if found == state.updates else f"{file} is of update {found}"

    def save(self, state: TrainState) -> None:
        """Write a checkpoint: the state for resuming and the model for use, after all records up to it."""
        records.flush_records(self.path / RECORDS)
        checkpoint.save_state(self.path, store_state(state))
        self.write_model(self.path / _MODEL, state.params, state.updates)

    def keep(self, state: TrainState) -> None:
        """Write a copy of the model that later checkpoints leave alone."""
        self.write_model(model_copy(self.path, state.updates), state.params, state.updates)

    def keep_best(self, state: TrainState, accuracy: float, evaluation: Mapping[str, Any]) -> None:
        """Write a copy of the model as the best one, unless an earlier one was as good by the same evaluation."""
        file, facts = self.path / BEST, {"accuracy": accuracy, "evaluation": evaluation}
        before = {}
        try:
            before = checkpoint.load(file).facts if file.exists() else {}
        except InputError as error:
            logger.warning("%s; the model after update %d takes its place", error, state.updates)
        is_comparable = before.get("evaluation") == evaluation and before["updates"] <= state.updates
        if not is_comparable or accuracy > before["accuracy"]:
            self.write_model(file, state.params, state.updates, **facts)

    def write_model(self, file: Path, params: Params, updates: int, **more: Any) -> None:
        """Write a model for use, with the run's facts beside it."""
        facts = self.facts | {"updates": updates} | more
        checkpoint.save(file, checkpoint.Stored(to_named(params) | self.fixed, facts))

    def last_checkpoint(self) -> str:
        """Where the last checkpoint is and after how many updates, in words."""
        stored = load_state(self.path)
        if stored is None:
            return "there is no checkpoint yet"
        return f"the last good checkpoint, after update {stored.facts['updates']}, is in {self.path}"

    def record(self, record: records.Record) -> None:
        """Append one measurement."""
        records.append_records(self.path / RECORDS, [record])


class NullRunDirectory(RunDirectory):
    """A run directory that writes nothing and restores nothing: of a process that is not the main one, or of none."""

    def restore(self, state: TrainState) -> TrainState:
        """`state` as given."""
        return state

    def _write_nothing(self, *_: object, **__: object) -> None:
        """Write nothing."""

    save = keep = keep_best = record = _write_nothing

    def last_checkpoint(self) -> str:
        """That there is none."""
        return "there is no checkpoint"


@dataclass(frozen=True)
class TrainedRun:
    """What a run directory holds for use.

    Args:
        updates, image_shape, mean, std: as of `ModelFacts`.
    """

    config: TrainConfig
    model: Model
    params: Params
    updates: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __repr__(self) -> str:
        """What was trained, on which tasks, for how long."""
        tasks = f"{self.config.ways}-way {self.config.shots}-shot {self.config.dataset}"
        return f"TrainedRun({tasks}, head={self.config.head!r}, {self.updates:,} updates)"

    def params_on(self, device: str) -> Params:
        """The parameters on `device`."""
        return map_params(lambda t: t.to(device), self.params)


@contextlib.contextmanager
def open_run(
    path: Path, config: TrainConfig, images: tuple[ClassImages, ClassImages], device: str, *, resume: bool
) -> Iterator[RunDirectory]:
    """Create the run directory, or with `resume` take it up; nobody else may train in it meanwhile.

    Args:
        images: what is trained and what is tested on.
    """
    config.training_tasks(images[0])  # an error before anything is written where these images cannot make such tasks
    config.test_tasks(images[1])
    model = config.model(images[0].shape)
    data = data_digests(config, images)
    with _locked(path, "--out") as holds_run:
        if holds_run:
            _check_same(path, config, data, resume)
        _begin(path, {"config": dataclasses.asdict(config), **records.provenance(device), "data": data})
        facts = _facts(config, images[0].shape, images[0].mean, images[0].std) | {"data": data}
        yield RunDirectory(path, facts, fixed_tensors(model))


def write_run(path: Path, run: TrainedRun, origin: dict[str, str]) -> None:
    """Create a run directory for a model that was trained elsewhere: it can be used, not resumed.

    Args:
        origin: where the model comes from, for `config.json`.
    """
    with _locked(path, "--out") as holds_run:
        if holds_run:
            raise InputError(f"{path} holds a run already: choose another --out")
        facts = _facts(run.config, run.image_shape, run.mean, run.std) | {"data": {}}
        header = {"config": facts["config"], **records.provenance("cpu"), "data": {}, "origin": origin}
        RunDirectory(path, facts).write_model(path / _MODEL, run.params, run.updates)
        write_text(path / CONFIG, json.dumps(header, indent=1) + "\n")


def _facts(
    config: TrainConfig, image_shape: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Any]:
    """What a model file says of itself, but for the number of updates and the data."""
    return {"config": dataclasses.asdict(config), "image_shape": image_shape, "mean": mean, "std": std}


def read_config(path: Path) -> TrainConfig | None:
    """The configuration of the run in `path`; None when there is no run."""
    file = path / CONFIG
    return config_from_values(read_header(path).get("config"), str(file)) if file.exists() else None


def read_header(path: Path) -> dict[str, Any]:
    """How the run in `path` is made: configuration, versions, device, revision and digests of the data."""
    file = path / CONFIG
    try:
        header = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}): restore it or choose another --out") from error
    if not isinstance(header, dict):
        raise InputError(f"{file} is not a run's configuration: restore it or choose another --out")
    return header


@contextlib.contextmanager
def open_own_run(path: Path, *, resume: bool) -> Iterator[RunDirectory]:
    """Create or resume the run directory of a training in Python, whose model no file describes."""
    with _locked(path, "out") as holds_run:
        if holds_run and not resume:
            raise InputError(f"{path} holds a run already: continue it with resume=True or choose another out")
        if holds_run and "own" not in read_header(path):
            raise InputError(f"{path} holds a run of the command line: resume it there or choose another out")
        _begin(path, {"own": True, **records.provenance("cpu")})
        yield RunDirectory(path, {"own": True})


def _begin(path: Path, header: dict[str, Any]) -> None:
    """Write how the run is made, as its configuration and once as the first of its records."""
    for name in (CONFIG, RECORDS, _MODEL, BEST, LAST):
        remove_leftovers(path, name)
    remove_leftovers(path / _KEPT, "*")
    write_text(path / CONFIG, json.dumps(header, indent=1) + "\n")
    if not (path / RECORDS).exists():
        write_text(path / RECORDS, json.dumps({"kind": "header", **header}) + "\n")


def load_params(path: str | Path, like: Params) -> Params:
    """Load the trained parameters of a run directory, for a model of any kind.

    Args:
        path: the folder, or one of the model files in it.
        like: parameters of the same structure and shapes, such as `model.init(...)`.

    Raises:
        InputError: the file is missing or damaged, or its tensors are not those of `like`.
    """
    file = as_path(path)
    file = file / _MODEL if file.is_dir() else file
    return _moved_params(checkpoint.load(file), like, file)


def _moved_params(stored: checkpoint.Stored, like: Params, file: Path) -> Params:
    """The parameters that training moves, of what a model file holds."""
    tensors = {name: t for name, t in stored.tensors.items() if not name.startswith(_FIXED)}
    return checkpoint.params_from_tensors(like, tensors, str(file))


def fixed_tensors(model: Model) -> dict[str, Tensor]:
    """What of the encoder is not in its parameters: frozen ones, and running averages.

    There is nothing of the kind in encoders of this library.
    """
    moved = model.empty_params().encoder
    return {f"{_FIXED}{name}": t for name, t in model.encoder.state_dict().items() if name not in moved}


def run_tensors(run: TrainedRun) -> dict[str, Tensor]:
    """Parameters and fixed tensors of a trained run, by name."""
    return to_named(run.params) | fixed_tensors(run.model)


def run_from_tensors(config: TrainConfig, about: ModelFacts, tensors: Mapping[str, Tensor], where: str) -> TrainedRun:
    """The inverse of `run_tensors`, checked; `where` is the file."""
    model = config.model(about.image_shape, trained=False)
    fixed = fixed_tensors(model)
    found = {name: t for name, t in tensors.items() if name in fixed}
    if wrong := next((name for name, t in fixed.items() if name not in found or found[name].shape != t.shape), None):
        raise InputError(
            f"{where} does not fit its configuration: {wrong} is missing or has another shape; train again"
        )
    if fixed:
        encoder = copy.deepcopy(model.encoder)
        encoder.load_state_dict({name.removeprefix(_FIXED): t for name, t in found.items()}, strict=False)
        model = dataclasses.replace(model, encoder=encoder)
    moved = {name: t for name, t in tensors.items() if name not in fixed}
    classes = len(tensors.get(f"extra.{CLASSIFIER}", ()))
    like = config.init(model, torch.Generator(), classes)
    return TrainedRun(config, model, checkpoint.params_from_tensors(like, moved, where), *about)


def load_run(path: str | Path) -> TrainedRun:
    """Load the trained model of a run directory, or of a model file in it such as `best.safetensors`.

    Raises:
        InputError: the file is missing or damaged, or holds a model of your own, which `load_params` reads.
    """
    file = as_path(path)
    if not file.is_file():
        if not file.is_dir():
            raise InputError(f"{file} is not a run directory: give the folder that `metacontrast train --out` wrote")
        if not (file / _MODEL).exists():
            raise InputError(f"{file} holds no trained model yet: train at least to the first checkpoint")
        file = file / _MODEL
    stored, where = checkpoint.load(file), str(file)
    if "own" in stored.facts:
        raise InputError(f"{where} is of your own model: use load_params with parameters of its structure")
    config = config_from_values(stored.facts.get("config"), where)
    return run_from_tensors(config, checkpoint.model_facts(stored.facts, where), stored.tensors, where)


def save_model(path: Path, run: TrainedRun) -> None:
    """Write a trained model so that `load_run` reads it from the folder `path`; nothing to resume from."""
    facts = _facts(run.config, run.image_shape, run.mean, run.std) | {"updates": run.updates}
    checkpoint.save(path / _MODEL, checkpoint.Stored(run_tensors(run), facts))


def load_kept(path: Path) -> list[TrainedRun]:
    """The copies of the model that training kept in the run directory `path`, by number of updates."""
    return [load_run(file) for file in sorted((path / _KEPT).glob("*.safetensors"))]


def model_copy(path: Path, updates: int) -> Path:
    """Where the run directory `path` keeps the copy of its model after this update, if it does."""
    return path / _KEPT / f"{updates:06d}.safetensors"


def _check_same(path: Path, config: TrainConfig, data: dict[str, str], resume: bool) -> None:
    """Raise when `path` holds a run and it is not this one, or going on was not asked for."""
    if not resume:
        raise InputError(f"{path} holds a run already: continue it with --resume or choose another --out")
    if "origin" in read_header(path):
        raise InputError(f"{path} holds a converted model, which cannot be resumed: choose another --out")
    before = check_continues(path, config)
    is_evaluated_alike = before is not None and before.eval_split == config.eval_split
    check_same_data(path, data if is_evaluated_alike else _digests_of(path) | data)


def check_continues(path: Path, config: TrainConfig) -> TrainConfig | None:
    """Return the configuration of the run in `path`, if there is one; `InputError` where this does not continue it."""
    before = read_config(path)
    if before is None:
        return None
    for field in dataclasses.fields(TrainConfig):
        old, new = getattr(before, field.name), getattr(config, field.name)
        may_grow = field.name == "updates" and not config.follows_length
        if old != new and field.name not in _BOOKKEEPING and not (may_grow and new > old):
            depends = ", on which its schedule depends" if field.name == "updates" and config.follows_length else ""
            raise InputError(
                f"{path} holds a run with {field.name}={old}, not {new}{depends}: "
                "resume it with its own configuration or choose another --out"
            )
    return before


def data_digests(config: TrainConfig, images: tuple[ClassImages, ClassImages]) -> dict[str, str]:
    """Digests of all that a run is made from, by name: its images, and the encoder that it starts from."""
    data = {each.name: each.digest for each in images}
    if config.start is not None:
        data[config.start] = digest_of_start(config.start, config.weights)
    return data


def check_same_data(path: Path, data: dict[str, str]) -> None:
    """Raise `InputError` where the run in `path` was made from anything whose digest is not among these."""
    for name, digest in _digests_of(path).items():
        if data.get(name) != digest:
            raise InputError(
                f"{path} was trained on other data: the digest of {name} was {digest[:12]}, now it is "
                f"{data.get(name, 'missing')[:12]}; restore the data or choose another --out"
            )


def _digests_of(path: Path) -> dict[str, str]:
    """What the run in `path` was made from, as of `data_digests`."""
    found = read_header(path).get("data")
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def _locked(path: Path, option: str) -> Iterator[bool]:
    """Keep other trainings out of the directory, and tell whether it holds a run; one without must hold no other files.

    Args:
        option: what names the directory, for messages.
    """
    with exclusive(path / ".lock", f"another training is writing to {path}: wait for it or choose another {option}"):
        holds_run = (path / CONFIG).exists()
        taken = [name for name in (RECORDS, _MODEL, LAST, BEFORE, BEST, _KEPT) if (path / name).exists()]
        if taken and not holds_run:
            raise InputError(f"{path} has a {taken[0]} but no {CONFIG}: choose another --out")
        yield holds_run
