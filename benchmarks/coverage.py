"""How often do the intervals of the verdicts hold the truth? A simulation of crossed seeds and test tasks.

    python benchmarks/coverage.py [--tries 20000] [--speed]

Prints, for 3, 5, 8 and 12 seeds, the least and the largest coverage of the nominal 95 % over many ratios of the
deviations of seeds, tasks and what is left, the deviation of seeds 0 among them. With `--speed`, the coverage of the
ratio of updates of curves whose true ratio is known, evaluated as the figures do, and how often one of two curves that
do not differ is called faster, at 95 %, whether they rise or not.
"""

import argparse
import itertools

import numpy as np

from metacontrast.experiments.setting import MEASURED_UPDATES
from metacontrast.experiments.statistics import LOOKS, estimate_speed_up, over_seeds_and_tasks

_TASKS = (0.0, 0.02, 0.05, 0.1)
_NOISE = (0.05, 0.1)
_RATIOS = (0.0, 0.3, 0.7, 1.0, 1.5, 3.0, 10.0)
"""Of the error by seeds to the error by tasks and noise."""


def coverage(seeds: int, of_seeds: float, of_tasks: float, noise: float, tries: int, tasks: int = 250) -> float:
    """The share of intervals that hold 0."""
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(tries):
        differences = generator.normal(0, of_seeds, (seeds, 1)) + generator.normal(0, of_tasks, tasks)
        low, high = over_seeds_and_tasks(differences + generator.normal(0, noise, (seeds, tasks))).interval()
        inside += low <= 0 <= high
    return inside / tries


def speed_coverage(seeds: int, ratio: float, spread: float, tries: int, tasks: int = 250) -> tuple[float, float]:
    """The share of intervals that hold the true ratio, and of those whose lower end lies above 1.

    The curves rise as 1 − exp(−(update / time)^0.5); the times of the seeds are log-normal, the tasks differ.
    """
    generator = np.random.default_rng(0)
    updates = [update for update in MEASURED_UPDATES["omniglot"] if update <= 3000]
    inside = above = 0
    for _ in range(tries):
        easy = generator.normal(0, 0.1, tasks)
        curves = []
        for factor in (1.0, ratio):
            times = 300 * factor * np.exp(generator.normal(0, spread / np.sqrt(2), seeds))
            curves.append(
                {
                    update: (0.4 + 0.55 * (1 - np.exp(-np.sqrt(update / times))))[:, None]
                    + easy
                    + generator.normal(0, 0.08, (seeds, tasks))
                    for update in updates
                }
            )
        found = estimate_speed_up(*curves)
        low, high = found.lower.interval()[0], found.upper.interval()[1]
        inside, above = inside + (low <= np.log2(ratio) <= high), above + (low > 0)
    return inside / tries, above / tries


def told_apart(seeds: int, rise: float, of_seeds: float, noise: float, tries: int) -> float:
    """How often one curve is called faster, in either direction, where the curves differ by seeds and noise alone."""
    generator = np.random.default_rng(0)
    updates = [update for update in MEASURED_UPDATES["omniglot"] if update <= 3000]
    decided = 0
    for _ in range(tries):
        curves = []
        for _ in range(2):
            own = generator.normal(0, of_seeds, (seeds, 1))
            curves.append(
                {
                    update: own + rise * np.log(update) / np.log(3000) + generator.normal(0, noise, (seeds, 1))
                    for update in updates
                }
            )
        found = estimate_speed_up(*curves)
        decided += min(found.p_faster, found.p_slower) <= 0.025
    return decided / tries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20_000)
    parser.add_argument("--speed", action="store_true")
    args = parser.parse_args()
    if args.speed:
        for seeds, ratio, spread in itertools.product((3, 5), (1.0, 1.5, 2.5), (0.05, 0.2)):
            inside, above = speed_coverage(seeds, ratio, spread, args.tries)
            print(f"{seeds} seeds, {ratio} times, spread {spread}: covers {inside:.1%}, faster {above:.1%}", flush=True)
        for seeds, rise, of_seeds, noise in itertools.product(
            (3, 5), (0.0, 0.03, 0.3), (0.0, 0.005, 0.02), (0.003, 0.01)
        ):
            decided = told_apart(seeds, rise, of_seeds, noise, args.tries)
            case = f"{seeds} seeds, rise {rise}, spread {of_seeds}, noise {noise}"
            print(f"{case}: one is faster {decided:.1%}", flush=True)
        return
    for seeds in LOOKS:
        found = []
        for of_tasks, noise, ratio in itertools.product(_TASKS, _NOISE, _RATIOS):
            of_seeds = ratio * np.sqrt(seeds * (of_tasks**2 + noise**2 / seeds) / 250)
            found.append(coverage(seeds, of_seeds, of_tasks, noise, args.tries))
        print(f"{seeds} seeds: {min(found):.1%} to {max(found):.1%}", flush=True)


if __name__ == "__main__":
    main()
