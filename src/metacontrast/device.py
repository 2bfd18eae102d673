"""Where to compute: a processor or a GPU."""

from typing import Any

import torch

from metacontrast.errors import InputError, check_choice

DEVICES = ("auto", "cpu", "cuda")


def find_device(name: Any) -> str:
    """`cpu` or `cuda`; `auto` is the GPU where there is one."""
    check_choice("device", name, DEVICES)
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise InputError("device='cuda' (--device cuda), but PyTorch sees no CUDA device here: use cpu")
    return "cuda" if name != "cpu" and has_gpu else "cpu"
