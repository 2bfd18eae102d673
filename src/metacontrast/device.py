"""Where to compute, a processor or a GPU, and the memory that there is.

`find_device` chooses; `free_bytes` and `peak_bytes` tell how much memory is free and how much some work takes.

glibc's malloc hands every large freed block back to the kernel and asks for it again, cleared, at the next training
step, which on 84×84 images costs more than the arithmetic. `keep_freed_memory` keeps it in the process.
"""

import ctypes
import os
import platform
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metacontrast.errors import InputError, check_choice

DEVICES = ("auto", "cpu", "cuda")


def find_device(name: Any) -> str:
    """Return `cpu` or `cuda`; `auto` is the GPU where there is one."""
    check_choice("device", name, DEVICES)
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise InputError("device='cuda', but PyTorch sees no CUDA device here: use 'cpu'")
    return "cuda" if name != "cpu" and has_gpu else "cpu"


FILLED = 0.8
"""The share of free memory that a chunk of tasks may take, because its need is an estimate."""

_CGROUPS = {  # version: mount, limit, use, and the part of the use that is only cached files
    1: ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
}


def free_bytes(device: str, root: Path = Path("/")) -> int | None:
    """Measure the bytes that are still available on a device; None where that is unknown.

    On a GPU what the driver and PyTorch's own cache have left, on Linux what the kernel calls available or the rest
    of a container's limit.

    Args:
        root: where `proc` and `sys` are.
    """
    if torch.device(device).type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    kilobytes = _field(_read(root / "proc/meminfo"), "MemAvailable:")
    found = [None if kilobytes is None else 1024 * kilobytes]
    found += [_left(root, line) for line in _read(root / "proc/self/cgroup").splitlines()]
    return min((each for each in found if each is not None), default=None)


def _left(root: Path, line: str) -> int | None:
    """Compute what the control group of a line of `/proc/self/cgroup`, and those around it, leave."""
    _, _, rest = line.partition(":")
    controller, _, path = rest.partition(":")
    if controller not in ("", "memory"):
        return None
    mount, *names = _CGROUPS[1 if controller else 2]
    group = root / mount / path.lstrip("/")
    groups = [g for g in (group, *group.parents) if g.is_relative_to(root / mount)]
    return min((left for g in groups if (left := _left_in(g, *names)) is not None), default=None)


def _left_in(group: Path, limit: str, use: str, cached: str) -> int | None:
    most, used = _read(group / limit).strip(), _read(group / use).strip()
    if not (most.isdigit() and used.isdigit()):
        return None
    return max(0, int(most) - int(used) + (_field(_read(group / "memory.stat"), cached) or 0))


def _field(text: str, name: str) -> int | None:
    return next((int(words[1]) for words in map(str.split, text.splitlines()) if words[:1] == [name]), None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


class MoreThanAllowed(Exception):
    """Work that was stopped because its tensors outgrew the allowed memory."""


def peak_bytes(work: Callable[[], object], most: int | None = None, inputs: Iterable[Tensor] = ()) -> int:
    """Measure the most bytes that tensors of `work` hold at once.

    Args:
        work: runs operators; every tensor that one makes is seen when it appears and when it goes, so that the count
            covers the graph of an inner loop, of its gradient's gradient, and any encoder alike. It leaves out what an
            operator needs for itself while it runs.
        most: how many are allowed.
        inputs: tensors that are there already and do not count.

    Raises:
        MoreThanAllowed: there were more than `most` bytes; `work` was broken off.
    """
    with _Count(most, inputs) as count:
        work()
    return count.peak


class _Count(TorchDispatchMode):
    """Dispatch mode that adds up the storages that are alive."""

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


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Keep freed blocks in the process, on glibc, unless `METACONTRAST_ALLOCATOR=system` leaves malloc as it is.

    Three settings of `mallopt(3)`: no mapping of blocks below 1 GiB, no trimming, one arena for all threads. The price
    is that the process does not shrink.
    """
    if os.environ.get("METACONTRAST_ALLOCATOR") == "system" or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1)):
        mallopt(parameter, value)
