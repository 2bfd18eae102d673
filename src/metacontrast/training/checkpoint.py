"""Parameters and training state on disk: safetensors files that carry their own digest and appear whole or not at all.

`model.safetensors` is for use: the parameters, with the configuration and data facts beside them.
`state.safetensors` is for resuming: parameters, the optimizer's tensors and the number of updates done.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.files import open_tensors, parse_json, write_tensors
from metacontrast.types import Params, from_named, to_named


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
        raise InputError(f"{path} cannot be read ({error}): it is damaged or not from here") from error


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
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
