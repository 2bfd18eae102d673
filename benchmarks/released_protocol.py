"""Omniglot 5-way 1-shot FOMAML at the released protocol, 300 updates: are the released accuracies met?

    METACONTRAST_DATA=... python benchmarks/released_protocol.py --out runs/released-protocol

Trains four heads on two seeds (finished runs are kept), writes the evaluation records as JSON lines, and prints the
table beside the released values (head zeroed at test, one inner step, mean over the released seeds).
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

from metacontrast.training.records import read_records

HEADS = {
    "random head": (["--head", "learned", "--head-init-scale", "1"], 0.830),
    "head x 0.5": (["--head", "learned", "--head-init-scale", "0.5"], 0.872),
    "zero init": (["--head", "learned", "--head-init-scale", "0"], 0.888),
    "zeroing trick": (["--head", "zeroed"], 0.888),
}
SETTING = ["--recipe", "omniglot-5w1s-released", "--updates", "300", "--eval-every", "300", "--eval-episodes", "600"]


def train(out: Path, name: str, seed: int) -> Path:
    """Train one head on one seed unless that is done already; return its run directory."""
    run = out / f"{name.replace(' ', '-')}-seed{seed}"
    flags = [*SETTING, *HEADS[name][0], "--seed", str(seed), "--workers", "1", "--out", str(run), "--resume"]
    subprocess.run([sys.executable, "-m", "metacontrast", "train", *flags], check=True)
    return run


def summary(run: Path) -> list[dict]:
    """The header of a run's records and its evaluations, without the line of every training update."""
    return [r for r in read_records(run / "records.jsonl") if r["kind"] != "training"]


def accuracy(records: list[dict]) -> float:
    """Accuracy at 300 updates, head zeroed at test, one inner step."""
    wanted = {"kind": "evaluation", "update": 300, "method": "maml", "head": "zeroed", "steps": 1}
    return next(r["accuracy"] for r in records if all(r.get(k) == v for k, v in wanted.items()))


def main() -> None:
    """Train, collect, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/released-protocol"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--records", type=Path, help="where to write the collected records")
    args = parser.parse_args()
    todo = [(name, seed) for seed in range(args.seeds) for name in HEADS]
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = list(pool.map(lambda one: train(args.out, *one), todo))
    found = {one: summary(run) for one, run in zip(todo, runs, strict=True)}
    if args.records:
        args.records.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"run": f"{name}, seed {seed}", **r}) for (name, seed), rs in found.items() for r in rs]
        args.records.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{'head':<16}{'released':>9}{'here':>8}{'difference':>12}   per seed")
    for name, (_, released) in HEADS.items():
        seeds = [accuracy(found[name, seed]) for seed in range(args.seeds)]
        each = ", ".join(f"{a:.3f}" for a in seeds)
        print(f"{name:<16}{released:>9.3f}{mean(seeds):>8.3f}{mean(seeds) - released:>+12.3f}   {each}")


if __name__ == "__main__":
    main()
