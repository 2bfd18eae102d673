"""How much memory is free for this process, where the system says so."""

from pathlib import Path

import torch

FILLED = 0.8
"""The share of free memory that a chunk of tasks may take, because its need is an estimate."""

_CGROUPS = {  # version: mount, limit, use, and the part of the use that is only cached files
    1: ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
}


def free_bytes(device: str, root: Path = Path("/")) -> int | None:
    """Bytes that can still be had on a device; None where that is unknown.

    On a GPU what the driver and PyTorch's own cache have left, on Linux what the kernel calls available or the rest
    of a container's limit.

    Args:
        root: where `proc` and `sys` are.
    """
    if torch.device(device).type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    found = [_available(root), *(_left(root, line) for line in _read(root / "proc/self/cgroup").splitlines())]
    return min((each for each in found if each is not None), default=None)


def _available(root: Path) -> int | None:
    kilobytes = _field(_read(root / "proc/meminfo"), "MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _left(root: Path, line: str) -> int | None:
    """What the control group of a line of `/proc/self/cgroup`, and those around it, leave."""
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
