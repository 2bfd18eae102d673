"""What does it cost to explain a batch of tasks, in outer updates of the same batch?

    python benchmarks/explain_cost.py

The released Omniglot protocol's shapes on random images: 32 tasks, 5-way 1-shot, 15 queries per class, 2 inner steps.
Update and explanation alternate in one process on one thread. Time is that of the least disturbed round, for other work
on the machine only ever adds to it; the range of the rounds' own ratios says how much there was.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from time import perf_counter

import torch

from metacontrast.diagnostics.gradient import explain
from metacontrast.training.recipes import recipe
from metacontrast.training.records import device_name
from metacontrast.training.train_run import initial_state, outer_step
from metacontrast.types import Episode

RELEASED = recipe("omniglot-5w1s-released")


def random_tasks(count: int, ways: int, shots: int, queries: int) -> Episode:
    """Random images; time does not depend on what is on them."""
    generator = torch.Generator().manual_seed(0)

    def images(per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(count, ways * per_class, 1, 28, 28, generator=generator)
        return x, torch.arange(ways).repeat_interleave(per_class).expand(count, -1)

    return Episode(*images(shots), *images(queries))


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = perf_counter()
    work()
    return perf_counter() - start


def measure(config, rounds: int) -> dict:
    """The fastest of all rounds, after one round that is not counted."""
    model = config.model((1, 28, 28))
    state = initial_state(config, model, "cpu")
    episodes = random_tasks(config.meta_batch, config.ways, config.shots, config.queries)
    works = (
        lambda: outer_step(config, model)(state, episodes),
        lambda: explain(model, state.params, episodes, config.inner()),
    )
    times = [[seconds(work) for work in works] for _ in range(rounds + 1)][1:]
    one_update, explanation = map(min, zip(*times, strict=True))
    ratios = sorted(e / u for u, e in times)
    return {
        "head": config.head,
        "order": config.order,
        "update_s": round(one_update, 3),
        "explain_s": round(explanation, 3),
        "ratio": round(explanation / one_update, 2),
        "median_ratio": round(median(ratios), 2),
        "ratios": [round(ratios[0], 2), round(ratios[-1], 2)],
    }


def main() -> None:
    """Both heads, both orders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        measure(replace(RELEASED, head=head, order=order), args.rounds)
        for head in ("learned", "zeroed")
        for order in ("first", "second")
    ]
    for row in rows:
        low, high = row["ratios"]
        print(
            f"{row['head']:<8} {row['order']:<7} update {row['update_s']:.3f} s, explain {row['explain_s']:.3f} s: "
            f"{row['ratio']:.2f} updates (rounds: {low:.2f} to {high:.2f}, median {row['median_ratio']:.2f})"
        )
    print(device_name("cpu"))
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
