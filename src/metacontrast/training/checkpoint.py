"""The state of a training and the parameters of a model on disk.

Files are safetensors with a digest of their own; writes are atomic.

- `model.safetensors` is for use: the parameters, and beside them the configuration, the number of updates and what is
  known of the images (`ModelFacts`).
- `state.safetensors` is for resuming, bit for bit: parameters, all that optimizer and schedule hold, and the number of
  updates.
- `state-before.safetensors` is the state before that one. When the last state is damaged it takes its place, and the
  updates between the two are done again.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from metacontrast.data.catalog import LARGEST_SIZE
from metacontrast.errors import InputError
from metacontrast.files import open_tensors, parse_json, write_tensors
from metacontrast.types import Params, from_named, to_named, to_tensors


@dataclass(frozen=True)
class Stored:
    """Named tensors with JSON-able facts beside them."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save(path: Path, stored: Stored, before: Path | None = None) -> None:
    """Write atomically, with a digest over facts, names, shapes and bytes.

    Args:
        before: where in the same folder to keep the file that is replaced.
    """
    if name := next((name for name, t in stored.tensors.items() if t.is_complex()), None):
        raise InputError(f"{name} is complex, which files of safetensors are not: train without out=")
    tensors = {name: t.detach().cpu().contiguous() for name, t in stored.tensors.items()}
    facts = json.dumps(stored.facts, sort_keys=True)
    write_tensors(path, tensors, {"facts": facts, "digest": _digest(tensors, facts)}, before)


def load(path: Path) -> Stored:
    """What `save` wrote; `InputError` when the file is missing, damaged or something else."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: check the folder's name")
    try:
        with open_tensors(path) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        facts = metadata["facts"]
        if _digest(tensors, facts) != metadata["digest"]:
            raise InputError(f"{path} is damaged: its content does not match its digest; restore it or train again")
        return Stored(tensors, parse_json(facts))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({error}): it is damaged or from another program") from error


def params_from_tensors(like: Params, tensors: dict[str, Tensor], where: str) -> Params:
    """The inverse of `to_named`, checked; `like` says which tensors of which shapes there must be, in which order.

    Raises:
        InputError: a tensor is missing, unknown, of another shape, or holds something else than finite numbers.
    """
    expected = to_named(like)
    for name in expected | tensors:
        if problem := _problem(expected.get(name), tensors.get(name)):
            raise InputError(f"{where} does not fit its configuration: {name} {problem}; restore it or train again")
    return from_named(like, tensors)


def _problem(wanted: Tensor | None, found: Tensor | None) -> str | None:
    if wanted is None:
        return "is unknown"
    if found is None:
        return "is missing"
    if found.shape != wanted.shape:
        return f"has shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
    if not found.is_floating_point() or not found.isfinite().all():
        return "has values that are not finite numbers"
    return None


def _digest(tensors: dict[str, Tensor], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass
class TrainState:
    """Parameters, the optimizer that moves them in place, the number of updates done, and a schedule if there is one.

    Args:
        schedule: of the optimizer's learning rate, one step for every update.
    """

    params: Params
    optimizer: torch.optim.Optimizer
    updates: int = 0
    schedule: LRScheduler | None = None


def store_state(state: TrainState) -> Stored:
    """Parameters and the optimizer's tensors under flat names; as facts, what else optimizer and schedule hold."""
    slots = state.optimizer.state_dict()["state"]
    flat = {f"optimizer.{i}.{name}": t for i, each in slots.items() for name, t in each.items()}
    tensors = to_named(state.params) | {n: t for n, t in flat.items() if isinstance(t, Tensor)}
    return Stored(tensors, {"updates": state.updates, "progress": _progress(state)})


def _progress(state: TrainState) -> Any:
    """What optimizer and schedule are, and hold beside tensors, as JSON has it."""
    optimizer, schedule = state.optimizer, state.schedule
    saved = optimizer.state_dict()
    slots = {i: {n: v for n, v in each.items() if not isinstance(v, Tensor)} for i, each in saved["state"].items()}
    groups = [{name: value for name, value in group.items() if name != "params"} for group in saved["param_groups"]]
    numbers = None if schedule is None else schedule.state_dict()
    found = {"kinds": _kinds(state), "slots": slots, "groups": groups, "schedule": numbers}
    try:
        return json.loads(json.dumps(_as_pairs(found)))
    except (TypeError, ValueError) as error:
        names = " or ".join(type(each).__name__ for each in (optimizer, schedule) if each is not None)
        raise InputError(f"{names} holds what cannot be saved ({error}): train without out=") from error


def _kinds(state: TrainState) -> list[Any]:
    """What the optimizer and the schedule are made from: class and arguments of the one, class of the other."""
    return [type(state.optimizer).__name__, state.optimizer.defaults, type(state.schedule).__name__]


def _same_kinds(stored: list[Any], own: list[Any]) -> bool:
    """Whether these are of the same classes, and the optimizer's arguments that both know are equal."""
    shared = stored[1].keys() & own[1].keys()
    return stored[::2] == own[::2] and all(stored[1][name] == own[1][name] for name in shared)


def _as_pairs(value: Any) -> Any:
    """Dictionaries as lists of pairs, because those of JSON have text as keys, and single numbers out of tensors."""
    if isinstance(value, dict):
        return {"pairs": [[key, _as_pairs(each)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [_as_pairs(each) for each in value]
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value


def _from_pairs(value: Any) -> Any:
    """The inverse of `_as_pairs`, but that tuples are lists."""
    if isinstance(value, dict):
        return {key: _from_pairs(each) for key, each in value["pairs"]}
    return [_from_pairs(each) for each in value] if isinstance(value, list) else value


def restore_state(state: TrainState, stored: Stored, where: str) -> TrainState:
    """Put what was stored into `state`, a fresh one of the same configuration, and return it."""
    params = {name: t for name, t in stored.tensors.items() if not name.startswith("optimizer.")}
    saved = params_from_tensors(state.params, params, where)
    for tensor, value in zip(to_tensors(state.params), to_tensors(saved), strict=True):
        tensor.copy_(value)
    moments = {name: tensor for name, tensor in stored.tensors.items() if name not in params}
    try:
        _restore_progress(state, moments, stored.facts, where)
        state.updates = int(stored.facts["updates"])
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} does not fit its configuration ({error}): start again with another --out") from error
    return state


def _restore_progress(state: TrainState, moments: dict[str, Tensor], facts: dict[str, Any], where: str) -> None:
    """Put what optimizer and schedule held into those of `state`.

    Args:
        moments: the optimizer's tensors by flat name.
        facts: what `_progress` returned is in them; files of an earlier version lack it.
    """
    optimizer, kinds, known = state.optimizer, _from_pairs(_as_pairs(_kinds(state))), facts.get("progress")
    if known is None and state.schedule is None:  # without a schedule there was nothing else to keep
        known = _as_pairs({"kinds": kinds, "slots": {}, "groups": [{} for _ in optimizer.param_groups]})
    progress = _from_pairs(known)
    if not _same_kinds(progress["kinds"], kinds):
        raise InputError(
            f"{where} is of a training with another optimizer or schedule ({progress['kinds']}): continue it with "
            "the same, or start another one from its parameters"
        )
    slots: dict[int, dict[str, Any]] = {int(index): each for index, each in progress["slots"].items()}
    for name, tensor in moments.items():
        _, index, slot = name.split(".", 2)
        slots.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})
    for group, own in zip(optimizer.param_groups, progress["groups"], strict=True):
        group.update({name: _of_kind(group.get(name), value) for name, value in own.items()})
    if state.schedule is not None:
        state.schedule.load_state_dict(progress["schedule"])


def _of_kind(fresh: Any, value: Any) -> Any:
    """A stored value of a group of parameters, as a tensor or a tuple where the fresh one is."""
    if isinstance(fresh, Tensor):
        return torch.full_like(fresh, value)
    return tuple(value) if isinstance(fresh, tuple) else value


LAST, BEFORE = "state.safetensors", "state-before.safetensors"
_DAMAGED = "state-damaged.safetensors"

logger = logging.getLogger("metacontrast")


def save_state(folder: Path, stored: Stored) -> None:
    """Write the last state; the one that was last becomes the one before it."""
    save(folder / LAST, stored, before=folder / BEFORE)


def load_state(folder: Path) -> Stored | None:
    """The last state that is whole; None when none was ever written.

    A damaged last state is set aside under another name, so that it never takes the good one's place.

    Raises:
        InputError: none is whole.
    """
    if not any((folder / name).exists() for name in (LAST, BEFORE)):
        return None
    try:
        return load(folder / LAST)
    except InputError as error:
        problem = f"{folder / LAST} is missing" if not (folder / LAST).exists() else str(error)
    try:
        stored = load(folder / BEFORE)
    except InputError as error:
        raise InputError(f"{problem}, and the checkpoint before it, {BEFORE}, cannot be used either") from error
    logger.warning("%s; continuing from the checkpoint before it, %s", problem, folder / BEFORE)
    if (folder / LAST).exists():
        (folder / LAST).replace(folder / _DAMAGED)
    return stored


class ModelFacts(NamedTuple):
    """Facts that a model cannot be used without.

    Args:
        updates: outer updates behind it.
        image_shape: channels, height and width of its images.
        mean, std: normalization of its images.
    """

    updates: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def model_facts(facts: dict[str, Any], where: str) -> ModelFacts:
    """The facts that the file `where` holds; `InputError` names what is missing or cannot be."""
    if missing := set(ModelFacts._fields) - set(facts):
        raise InputError(f"{where} lacks {', '.join(sorted(missing))}: it is damaged or from another program")
    found = {name: facts[name] for name in ModelFacts._fields}
    for name, value in found.items():
        if not _fits(name, value):
            raise InputError(f"{where} has {name}={value!r}, which no model has: it is damaged or from another program")
    channels, height, width = found["image_shape"]
    mean, std = tuple(found["mean"]), tuple(found["std"])
    if not {len(mean), len(std)} <= {1, channels}:
        raise InputError(
            f"{where} has mean and std for other than {channels} channels: it is damaged or from another program"
        )
    return ModelFacts(found["updates"], (channels, height, width), mean, std)


def _fits(name: str, value: Any) -> bool:
    if name == "updates":
        return type(value) is int and value >= 0
    if not isinstance(value, list) or not value:
        return False
    if name == "image_shape":
        return len(value) == 3 and all(type(size) is int and 1 <= size <= LARGEST_SIZE for size in value)
    kind = torch.finfo(torch.float32)
    return all(type(v) in (int, float) and abs(v) <= kind.max and (name == "mean" or v >= kind.tiny) for v in value)
