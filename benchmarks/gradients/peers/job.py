"""What an engine is asked to do, in plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Refusal(Exception):
    """The engine cannot do this job; the message says why in a few words."""


@dataclass(frozen=True)
class Job:
    """One outer gradient.

    Args:
        tensors: path of an npz file: the parameters `p0`, `p1`, ... in the network's order (per block weight and bias
            of the convolution, then of the batch norm; weight and bias of the head), and the tasks `support_x`,
            `support_y`, `query_x`, `query_y` along a leading axis.
        gradient: path of the npz file to write the first gradient to, `g0`, `g1`, ...; empty for none.
        dtype: `float32` or `float64`.
        layers: of every convolution channels, filters, kernel, stride, padding, size, pooled.
        order: `first` or `second`.
        device: `cpu` or `cuda`.
        name, image_shape, filters, tasks, steps, lr, scope, ways, shots, queries, head: of the case.
    """

    tensors: str
    gradient: str
    dtype: str
    layers: list[dict[str, Any]]
    order: str
    device: str
    name: str
    image_shape: Sequence[int]
    filters: int
    tasks: int
    steps: int
    lr: float
    scope: str
    ways: int
    shots: int
    queries: int
    head: str

    def params(self) -> list[Tensor]:
        """The starting parameters."""
        with np.load(self.tensors) as file:
            count = sum(name.startswith("p") for name in file.files)
            return [self._place(file[f"p{i}"]) for i in range(count)]

    def batch(self) -> list[Tensor]:
        """support_x, support_y, query_x, query_y of all tasks."""
        with np.load(self.tensors) as file:
            names = ("support_x", "support_y", "query_x", "query_y")
            return [self._place(file[name]) for name in names]

    def episodes(self) -> list[tuple[Tensor, ...]]:
        """The same, task by task."""
        return list(zip(*self.batch(), strict=True))

    def write_gradient(self, gradient: list[Tensor]) -> None:
        """Keep the gradient for the comparison, if asked to."""
        if not self.gradient:
            return
        arrays: dict[str, Any] = {f"g{i}": g.detach().cpu().numpy() for i, g in enumerate(gradient)}
        np.savez(self.gradient, **arrays)

    def _place(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array).to(self.device)
        return tensor.to(getattr(torch, self.dtype)) if tensor.is_floating_point() else tensor
