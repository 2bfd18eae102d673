"""Where a training stands, and how that is written down so that it goes on bit for bit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.training.checkpoint import Stored, params_from_tensors, params_to_tensors
from metacontrast.types import Params, to_tensors


@dataclass
class TrainState:
    """Parameters, the optimizer that moves them in place, and the number of updates done."""

    params: Params
    optimizer: torch.optim.Optimizer
    updates: int


def store_state(state: TrainState) -> Stored:
    """Parameters and the optimizer's tensors under flat names."""
    moments = state.optimizer.state_dict()["state"]
    flat = {f"optimizer.{i}.{name}": t for i, slots in moments.items() for name, t in slots.items()}
    tensors = params_to_tensors(state.params) | {n: t for n, t in flat.items() if isinstance(t, Tensor)}
    return Stored(tensors, {"updates": state.updates})


def restore_state(state: TrainState, stored: Stored, where: str) -> TrainState:
    """Put what was stored into `state`, a fresh one of the same configuration, and return it."""
    params = {name: t for name, t in stored.tensors.items() if not name.startswith("optimizer.")}
    saved = params_from_tensors(state.params, params, where)
    for tensor, value in zip(to_tensors(state.params), to_tensors(saved), strict=True):
        tensor.copy_(value)
    structure = state.optimizer.state_dict()
    structure["state"] = _moments(stored)
    try:
        state.optimizer.load_state_dict(structure)
        state.updates = int(stored.facts["updates"])
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{where} does not fit its configuration ({error}): start anew with another --out") from error
    return state


def _moments(stored: Stored) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in stored.tensors.items():
        group, _, rest = name.partition(".")
        if group == "optimizer":
            index, _, slot = rest.partition(".")
            moments.setdefault(int(index), {})[slot] = tensor
    return moments
