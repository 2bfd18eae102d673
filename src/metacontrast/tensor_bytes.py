"""How many bytes tensors hold at once, counted while some work runs.

Every tensor that an operator makes is seen when it appears and when it goes, so that the count covers the graph of an
inner loop, of its gradient's gradient, blocks of layers and any encoder alike. It leaves out what an operator needs for
itself while it runs.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MoreThanAllowed(Exception):
    """Work was broken off because its tensors outgrew what was allowed."""


def peak_bytes(work: Callable[[], object], most: int | None = None, inputs: Iterable[Tensor] = ()) -> int:
    """The most bytes that tensors of `work` hold at once.

    Args:
        most: how many are allowed.
        inputs: tensors that are there already and do not count.

    Raises:
        MoreThanAllowed: there were more than `most` bytes; `work` was broken off.
    """
    with _Count(most, inputs) as count:
        work()
    return count.peak


class _Count(TorchDispatchMode):
    """Adds up the storages that are alive."""

    def __init__(self, most: int | None, inputs: Iterable[Tensor]):
        super().__init__()
        self._most = most
        self._known = {t.untyped_storage()._cdata for t in inputs}
        self._alive = self.peak = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Without this PyTorch loads its compiler, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        if self._most is not None and self._alive > self._most:
            raise MoreThanAllowed
        return found

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self._alive += storage.nbytes()
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes()).atexit = False

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._alive -= size
