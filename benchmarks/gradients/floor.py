"""The floor: the time that a case's convolutions take when nothing else is computed.

What one task's outer gradient needs of every layer, each convolution as big as the layer's own forward one:

    inner step      forward, weight gradient, input gradient
    second order    + the backward pass of the two gradients, with V the direction of the weights W and U that of the
                      input X: conv(U, W) and conv(X, V), both for the direction of the output; the input gradient
                      with V for W; the weight gradient with U for X
                    + the backward pass of the forward one: weight gradient, input gradient
    query           forward, weight gradient, input gradient

The first layer's input is the image, which needs no gradient and has no direction: there the input gradients and all
that has U fall away. When only the head moves, the support images pass forward once for all steps, and second
order adds one backward pass through them.

Where all tasks still have the same weights (the first inner step; always when only the head moves) their images can
pass as one batch, and weight gradients that only the outer sum needs come from that batch too. The floor is the best
of these ways with channels-last or ordinary memory, and with tasks spread over threads or threads inside operators.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gradients.cases import Case, Layer, layers
from metacontrast.types import Order

Kind = Literal["forward", "weight", "input"]


@dataclass(frozen=True)
class Convolution:
    """One convolution of every layer.

    Args:
        kind: the forward one, or the gradient of the weights or of the input; all three cost the same arithmetic.
        shared: whether one call can serve all tasks.
        first_layer: whether the first layer needs it too.
    """

    kind: Kind
    shared: bool = False
    first_layer: bool = True


class Pass(NamedTuple):
    """Convolutions over the support or the query images of a task."""

    images: int
    convolutions: tuple[Convolution, ...]


def passes(case: Case, order: Order) -> list[Pass]:
    """All that one task needs."""
    support, query = case.ways * case.shots, case.ways * case.queries
    if case.scope == "head":
        backward = _backward(shared=True) if order == "second" else ()
        return [
            Pass(support, (Convolution("forward", shared=True), *backward)),
            Pass(query, (Convolution("forward", shared=True), *_backward(shared=True))),
        ]
    inner = [Pass(support, _inner_step(order, shared=step == 0)) for step in range(case.steps)]
    return [*inner, Pass(query, (Convolution("forward"), *_backward(shared=False)))]


def _inner_step(order: Order, shared: bool) -> tuple[Convolution, ...]:
    step = (Convolution("forward", shared), Convolution("weight"), Convolution("input", shared, first_layer=False))
    if order == "first":
        return step
    through_the_gradient = (
        Convolution("forward", shared, first_layer=False),
        Convolution("forward"),
        Convolution("input", first_layer=False),
        Convolution("weight", shared, first_layer=False),
    )
    return step + through_the_gradient + _backward(shared)


def _backward(shared: bool) -> tuple[Convolution, ...]:
    """A backward pass whose weight gradients go to the outer sum."""
    return Convolution("weight", shared), Convolution("input", shared, first_layer=False)


class Way(NamedTuple):
    """How the convolutions are run."""

    layout: Literal["channels-last", "ordinary"]
    threads: Literal["over tasks", "inside operators"]
    batching: Literal["task by task", "shared weights together"]

    def __str__(self) -> str:
        return f"{self.layout} memory, threads {self.threads}, {self.batching}"


def ways(device: str) -> list[Way]:
    """All ways; on a GPU threads over tasks make no sense."""
    threads = ("over tasks", "inside operators") if device == "cpu" else ("inside operators",)
    batching = ("task by task", "shared weights together")
    return [Way(*choice) for choice in product(("channels-last", "ordinary"), threads, batching)]


def floor_clock(case: Case, order: Order, device: str, way: Way, threads: int) -> Callable[[], float]:
    """A function that runs all convolutions of the case once and returns the seconds that they took."""
    workers = min(threads, case.tasks) if way.threads == "over tasks" else 1
    blocks = [len(range(i, case.tasks, workers)) for i in range(workers)]
    calls = [[1] * block if way.batching == "task by task" else [block] for block in blocks]
    needed, all_layers = passes(case, order), layers(case)
    sizes = {p.images * n for p in needed for block in calls for n in {1, *block}}
    tensors = {(i, n): _Tensors(layer, n, device, way) for i, layer in enumerate(all_layers) for n in sizes}

    def run_block(counts: list[int]) -> None:
        for tasks in counts:
            for step in needed:
                _run(step, tasks, len(all_layers), tensors)

    inside = max(1, threads // workers)
    executor = ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(inside))

    def clock() -> float:
        torch.set_num_threads(inside)
        _finish(device)
        start = time.perf_counter()
        list((map if workers == 1 else executor.map)(run_block, calls))
        _finish(device)
        return time.perf_counter() - start

    return clock


def _run(step: Pass, tasks: int, depth: int, tensors: "dict[tuple[int, int], _Tensors]") -> None:
    """One pass of `tasks` tasks, forward through the layers; the order changes no time."""
    for number in range(depth):
        for convolution in step.convolutions:
            if number > 0 or convolution.first_layer:
                together = tasks if convolution.shared else 1
                for _ in range(tasks // together):
                    tensors[number, step.images * together].convolve(convolution.kind)


class _Tensors:
    """Input, weight and output of a layer for a number of images, made once."""

    def __init__(self, layer: Layer, images: int, device: str, way: Way):
        def draw(*shape: int) -> Tensor:
            memory = torch.channels_last if way.layout == "channels-last" else torch.contiguous_format
            return torch.randn(shape, device=device).to(memory_format=memory)

        self.x = draw(images, layer.channels, layer.size, layer.size)
        self.w = draw(layer.filters, layer.channels, layer.kernel, layer.kernel)
        self.y = draw(images, layer.filters, layer.out_size, layer.out_size)
        self.window = ([layer.stride] * 2, [layer.padding] * 2, [1, 1], False, [0, 0], 1)

    def convolve(self, kind: Kind) -> None:
        if kind == "forward":
            torch.convolution(self.x, self.w, None, *self.window)
        else:
            wanted = [kind == "input", kind == "weight", False]
            torch.ops.aten.convolution_backward(self.y, self.x, self.w, None, *self.window, wanted)


def _finish(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
