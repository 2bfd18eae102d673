"""Where a training stands, and how that is written down so that it goes on bit for bit."""

import json
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from metacontrast.errors import InputError
from metacontrast.training.checkpoint import Stored, params_from_tensors
from metacontrast.types import Params, to_named, to_tensors


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
    """Parameters and the optimizer's tensors under flat names; updates and schedule as facts."""
    moments = state.optimizer.state_dict()["state"]
    flat = {f"optimizer.{i}.{name}": t for i, slots in moments.items() for name, t in slots.items()}
    tensors = to_named(state.params) | {n: t for n, t in flat.items() if isinstance(t, Tensor)}
    return Stored(tensors, {"updates": state.updates} | _store_schedule(state))


def _store_schedule(state: TrainState) -> dict[str, object]:
    """The schedule's numbers and the learning rates that they led to; nothing where there is no schedule."""
    if state.schedule is None:
        return {}
    facts = {"schedule": state.schedule.state_dict(), "lrs": [group["lr"] for group in state.optimizer.param_groups]}
    try:
        return json.loads(json.dumps(facts))
    except (TypeError, ValueError) as error:
        name = type(state.schedule).__name__
        raise InputError(f"the schedule {name} holds what cannot be saved ({error}): train without out=") from error


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
        if state.schedule is not None:
            state.schedule.load_state_dict(stored.facts["schedule"])
            for group, lr in zip(state.optimizer.param_groups, stored.facts["lrs"], strict=True):
                group["lr"] = lr
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
