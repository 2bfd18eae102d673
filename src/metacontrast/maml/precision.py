"""The arithmetic of float32 tensors: IEEE single precision, unless coarser was asked for.

    float32    every product as it stands: 24 bits
    tf32       a GPU rounds the factors of products to 11 bits; sums have 24
    bfloat16   what flows between layers has 8 bits; sums and parameters have 24

PyTorch keeps this in flags that belong to the whole process, and by default lets cuDNN round. The flags are set for as
long as any thread computes, and are put back when the last one is done. Threads of one setting compute at the same
time; a thread that needs another setting waits for them. Work outside these contexts sees the flags as they are.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch

from metacontrast.errors import InputError
from metacontrast.types import Episode

Precision = Literal["float32", "tf32", "bfloat16"]


def at_precision(precision: Precision, function: Callable[[Episode], Any]) -> Callable[[Episode], Any]:
    """`function` with its arithmetic at a precision, in whichever thread it is called."""

    def run(episode: Episode) -> Any:
        with arithmetic(precision, episode.query_x.device):
            return function(episode)

    return run


@contextlib.contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute at a precision on a device.

    Raises:
        InputError: the device does not know the precision, or this thread computes at another one already.
    """
    if precision == "tf32" and device.type != "cuda":
        raise InputError("precision='tf32' is a GPU's: use 'float32' or 'bfloat16' on a CPU")
    with contextlib.ExitStack() as stack:
        if flags := _FLAGS.get(device.type):
            stack.enter_context(flags.held("tf32" if precision == "tf32" else "ieee"))
        if precision == "bfloat16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, cache_enabled=False))
        yield


class _Flags:
    """Flags of the process that threads hold together.

    Args:
        operators: objects of `torch.backends` with an attribute `fp32_precision`.
    """

    def __init__(self, *operators: Any):
        self._operators = operators
        self._before = [""] * len(operators)
        self._holders: list[int] = []
        self._setting = ""
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def held(self, setting: str) -> Iterator[None]:
        """All flags at `setting`; waits for threads that hold them at another one."""
        me = threading.get_ident()
        with self._changed:
            if me in self._holders and setting != self._setting:
                raise InputError(
                    f"float32 arithmetic is at {self._setting!r} here and cannot be at {setting!r} inside: "
                    "finish the one computation before the other"
                )
            self._changed.wait_for(lambda: not self._holders or setting == self._setting)
            if not self._holders:
                self._set(setting)
            self._holders.append(me)
        try:
            yield
        finally:
            with self._changed:
                self._holders.remove(me)
                if not self._holders:
                    self._put_back()
                    self._changed.notify_all()

    def _set(self, setting: str) -> None:
        self._setting = setting
        self._before = [operator.fp32_precision for operator in self._operators]
        for operator, before in zip(self._operators, self._before, strict=True):
            if before != setting:  # a flag that follows a wider one goes on to follow it
                operator.fp32_precision = setting

    def _put_back(self) -> None:
        for operator, before in zip(self._operators, self._before, strict=True):
            if before != operator.fp32_precision:
                operator.fp32_precision = before


_backends: Any = torch.backends
_FLAGS = {
    "cuda": _Flags(_backends.cudnn.conv, _backends.cudnn.rnn, _backends.cuda.matmul),
    "cpu": _Flags(_backends.mkldnn.conv, _backends.mkldnn.rnn, _backends.mkldnn.matmul),
}
"""By type of device; oneDNN's flags decide whether a CPU may round."""
