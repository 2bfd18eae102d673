"""Does training in bfloat16 cost accuracy? Omniglot 5-way 1-shot, released protocol, zeroing trick, 300 updates.

    METACONTRAST_DATA=... python benchmarks/precision.py --records results/precision.jsonl

Trains in float32 and in bfloat16 from the same seeds on the same tasks (finished runs are kept), tests all in float32
on the same 992 tasks, one inner step, and prints the difference with Student's 95 % interval over the seeds.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from metacontrast.experiments.statistics import over_seeds
from released_protocol import accuracy, trained

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Train, test, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/precision"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--records", type=Path, help="where to write what was found")
    args = parser.parse_args()

    def run(seed: int, precision: str) -> dict:
        return trained(args.out / precision, "zeroing trick", seed, precision=precision)

    with ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(lambda one: run(*one), product(range(args.seeds), PRECISIONS)))
    if args.records:
        args.records.write_text("".join(json.dumps(record) + "\n" for record in found), encoding="utf-8")
    differences = []
    for seed in range(args.seeds):
        single, coarse = (accuracy(record) for record in found if record["seed"] == seed)
        differences.append(coarse - single)
        print(f"seed {seed}: float32 {single:.4f}, bfloat16 {coarse:.4f}, difference {coarse - single:+.4f}")
    estimate = over_seeds(differences)
    print(f"mean difference {estimate.mean:+.4f} ± {estimate.interval()[1] - estimate.mean:.4f}")


if __name__ == "__main__":
    main()
