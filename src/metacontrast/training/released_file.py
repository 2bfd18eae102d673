"""The file of a released checkpoint: read as weights only, and checked for being what it should be."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metacontrast.errors import InputError

BLOCKS = 4
VARIABLES = [f"vars.{i}" for i in range(4 * BLOCKS + 2)]
AVERAGES = [f"vars_bn.{i}" for i in range(2 * BLOCKS)]
_HEAD_WEIGHT, _HEAD_BIAS = VARIABLES[-2:]
_AROUND = {"model_state_dict", "optimizer_state_dict", "epoch", "step"}


@dataclass(frozen=True, eq=False)
class ReleasedWeights:
    """What a released checkpoint holds.

    Args:
        variables: the tensors of the encoder, block by block, then the head's weight and its bias if there is one.
        updates: outer updates behind them, as the optimizer counted; 0 when the file does not say.
    """

    variables: list[Tensor]
    updates: int

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.variables[0].shape[1]

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a configuration that the shapes decide."""
        return {
            "ways": self.variables[4 * BLOCKS].shape[0],
            "filters": self.variables[0].shape[0],
            "head_bias": len(self.variables) == len(VARIABLES),
        }


def read_released(path: Path) -> ReleasedWeights:
    """The weights in the file; `InputError` when it is anything but a whole checkpoint of finite float32 weights."""
    checkpoint = _read_weights_only(path)
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("model_state_dict"), Mapping):
        raise InputError(f"{path} has no model_state_dict: it is not one of the released checkpoints")
    if unknown := [key for key in checkpoint if key not in _AROUND]:
        raise InputError(f"{path} has an unknown entry {unknown[0]!r}: it is not one of the released checkpoints")
    state = checkpoint["model_state_dict"]
    _check_names(state, path)
    for name in state:
        _check_tensor(name, state[name], path)
    _check_averages(state, path)
    variables = [state[name].detach() for name in VARIABLES if name in state]
    return ReleasedWeights(variables, _count_updates(checkpoint.get("optimizer_state_dict"), path))


def _read_weights_only(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path} is not a file: give a checkpoint that was released with the paper")
    try:
        with warnings.catch_warnings(action="ignore"):  # PyTorch remarks on some pickles before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise nearly anything
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {asked[1]}, which is not run" if asked else "is no checkpoint of weights alone, or is damaged"
        raise InputError(f"{path} {what}: get it from its authors again") from error


def _check_names(state: Mapping[Any, Any], path: Path) -> None:
    required = [*VARIABLES[:-1], *AVERAGES]
    if missing := [name for name in required if name not in state]:
        raise InputError(f"{path} lacks {missing[0]}: it is not one of the released checkpoints")
    if unknown := [name for name in state if name not in (*required, _HEAD_BIAS)]:
        raise InputError(f"{path} has an unknown tensor {unknown[0]!r}: it is not one of the released checkpoints")


def _check_tensor(name: str, tensor: Any, path: Path) -> None:
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype != torch.float32:
        kind = f"a {tensor.dtype} tensor" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InputError(f"{path}: {name} is {kind}, not a dense float32 tensor: get it from its authors again")
    if tensor.is_meta or not torch.isfinite(tensor).all():
        raise InputError(f"{path}: {name} has values that are not finite: the training diverged or the file is damaged")
    dimensions = {"vars.0": 4, _HEAD_WEIGHT: 2}.get(name, tensor.ndim)
    if tensor.ndim != dimensions or not tensor.numel():
        raise InputError(f"{path}: {name} has shape {tuple(tensor.shape)}, not {dimensions} dimensions above 0")


def _check_averages(state: Mapping[str, Tensor], path: Path) -> None:
    """They are not used, but averages of another shape are a sign of another network."""
    for place, name in enumerate(AVERAGES):
        wanted = state[VARIABLES[4 * (place // 2) + 2]].shape
        if state[name].shape != wanted:
            raise InputError(f"{path}: {name} has shape {tuple(state[name].shape)}, not {tuple(wanted)}")


def _count_updates(optimizer: Any, path: Path) -> int:
    """The optimizer's own count, the same for every tensor that it ever moved."""
    if optimizer is None:
        return 0
    try:
        return max((int(slots["step"]) for slots in optimizer["state"].values()), default=0)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path}: its optimizer_state_dict is not Adam's: it is damaged or not from there") from error
