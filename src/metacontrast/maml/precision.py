"""The arithmetic of an update, which is coarser only by choice."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch

from metacontrast.errors import InputError
from metacontrast.types import Episode

Precision = Literal["float32", "tf32", "bfloat16"]


def at_precision(precision: Precision, function: Callable[[Episode], Any]) -> Callable[[Episode], Any]:
    """`function` with its arithmetic at a precision, in whichever thread it is called."""

    def run(episode: Episode) -> Any:
        with _arithmetic(precision, episode.query_x.device):
            return function(episode)

    return function if precision == "float32" else run


def _arithmetic(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    if device.type != "cuda":
        raise InputError("precision='tf32' is a GPU's: use 'float32' or 'bfloat16' on a CPU")
    return _tf32()


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
