"""How far the closed forms miss where their assumptions fail: the table "Where it ends" of docs/theory.md.

    python benchmarks/where_the_theory_ends.py

Relative misses of the encoder's gradient against the algorithm's own, smallest to largest over ten random tasks, in
float64: untrained released Omniglot encoder, head with bias and the released starting scale or zeroed, 5-way 1-shot, 3
queries per class, η = 0.1.
"""

from collections.abc import Callable

import torch

from metacontrast import theory
from metacontrast.diagnostics.task_view import flatten
from metacontrast.maml.outer import task_outcome
from metacontrast.model.encoders import conv4_released
from metacontrast.model.head import zero_head
from metacontrast.model.model import Model
from metacontrast.types import Episode, Inner, Order, Params, Scope, map_params

WAYS, QUERIES, LR = 5, 3, 0.1
MODEL = Model(conv4_released(1, 28), WAYS)


def random_case(seed: int) -> tuple[Params, Episode]:
    """An untrained model, and a task whose classes are random images under noise."""
    generator = torch.Generator().manual_seed(seed)
    params = map_params(lambda t: t.double(), MODEL.init(generator))
    means = torch.rand(WAYS, 1, 28, 28, generator=generator, dtype=torch.float64)

    def draw(per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.arange(WAYS).repeat_interleave(per_class)
        return means[y] + 0.5 * torch.randn(len(y), 1, 28, 28, generator=generator, dtype=torch.float64), y

    return params, Episode(*draw(1), *draw(QUERIES))


def actual(params: Params, episode: Episode, scope: Scope, order: Order, steps: int) -> torch.Tensor:
    """The algorithm's gradient of the encoder."""
    return flatten(task_outcome(MODEL, params, episode, Inner(steps, LR, scope, order)).gradient.encoder)


def split(params: Params, episode: Episode, order: Order, steps: int) -> torch.Tensor:
    """The theory's."""
    return flatten(theory.split_encoder_gradient(MODEL.features, params, episode, Inner(steps, LR, order=order)).total)


def as_printed(params: Params, episode: Episode) -> torch.Tensor:
    """Eq. 14 without the head's curvature."""
    parts = theory.split_encoder_gradient(MODEL.features, params, episode, Inner(lr=LR, order="second"))
    return flatten(parts.total) - flatten(parts.head_curvature)


def whole_network(order: Order, steps: int) -> Callable[[Params, Episode], tuple[torch.Tensor, torch.Tensor]]:
    """The theory of a still encoder against an inner loop that moves the whole network."""
    return lambda params, episode: (
        split(params, episode, order, steps),
        actual(params, episode, "all", order, steps),
    )


CASES = {
    "encoder adapts, 1 step, first order": whole_network("first", 1),
    "encoder adapts, 1 step, second order": whole_network("second", 1),
    "encoder adapts, 2 steps, first order": whole_network("first", 2),
    "encoder adapts, 2 steps, second order": whole_network("second", 2),
    "only the head adapts, 2 steps, second order, predicted by the formula for one step": lambda p, e: (
        split(p, e, "second", 1),
        actual(p, e, "head", "second", 2),
    ),
    "only the head adapts, 1 step, second order, predicted by the formula for first order": lambda p, e: (
        split(p, e, "first", 1),
        actual(p, e, "head", "second", 1),
    ),
    "only the head adapts, 1 step, second order, predicted by (14) as printed": lambda p, e: (
        as_printed(p, e),
        actual(p, e, "head", "second", 1),
    ),
}


def miss(case: Callable, params: Params, episode: Episode) -> float:
    """Relative distance of the theory from the algorithm, in percent."""
    closed, true = case(params, episode)
    return 100 * ((closed - true).norm() / true.norm()).item()


def as_range(misses: list[float]) -> str:
    """Smallest to largest; below a billionth of a percent it is rounding."""
    if max(misses) < 1e-9:
        return "0 (rounding)"
    return f"{min(misses):.0f} to {max(misses):.0f} %"


def main() -> None:
    """The table, in Markdown."""
    torch.set_num_threads(1)
    cases = [random_case(seed) for seed in range(10)]
    print("| case | random head | zeroed head |\n|---|---|---|")
    for name, case in CASES.items():
        random = [miss(case, params, episode) for params, episode in cases]
        zeroed = [miss(case, zero_head(params), episode) for params, episode in cases]
        print(f"| {name} | {as_range(random)} | {as_range(zeroed)} |")


if __name__ == "__main__":
    main()
