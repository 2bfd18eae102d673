"""What each trick of the CPU engine gives: seconds per outer gradient as the tricks come in, one after the other.

    python benchmarks/tricks.py [--records results/tricks.jsonl]

Random images, 5-way 1-shot with 15 queries, conv4-released, float32, tasks spread over all processors. Each setting is
a process of its own; the settings alternate, and the median of the rounds is shown. `bfloat16` is a choice that changes
numbers; all other settings compute the same.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

import metacontrast as mc
from gradients.cases import CASES, ORDERS, build_model, draw
from gradients.table import hardware
from metacontrast.device import keep_freed_memory
from metacontrast.maml import engine
from metacontrast.model.fused import block

REPEATS = 3
SETTINGS = {
    "threads over tasks": {"memory": False, "fused": False},
    "+ freed memory kept": {"fused": False},
    "+ blocks run as one": {"parts": False, "together": False},
    "+ a few images at once": {"together": False},
    "+ tasks side by side": {},
    "+ bfloat16": {"bfloat16": True},
}


def measure(memory: bool = True, fused: bool = True, parts: bool = True, together: bool = True, bfloat16: bool = False):
    """Median seconds of an outer gradient, by case and order."""
    if memory:
        keep_freed_memory()
    if not parts:
        block._CACHE_BYTES = 2**40
    if not together:
        engine._MOST_TOGETHER = 1
    torch.set_num_threads(1)
    chosen = engine.Engine(precision="bfloat16" if bfloat16 else "float32")
    found = {}
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        for name in ("a", "b", "c", "d"):
            case = CASES[name]
            params, episodes = draw(case, seed=0)
            model = replace(build_model(case), fused=fused)
            for order in ORDERS:
                inner = mc.Inner(case.steps, case.lr, case.scope, order)
                seconds = []
                for _ in range(REPEATS + 1):
                    start = time.perf_counter()
                    mc.meta_gradient(model, params, episodes, inner, executor, chosen)
                    seconds.append(time.perf_counter() - start)
                found[f"{name}, {order}"] = median(seconds[1:])
    return found


def main(count: int, records: Path | None) -> None:
    """Alternate the settings and print the table."""
    rounds: dict[str, list[dict[str, float]]] = {setting: [] for setting in SETTINGS}
    for number in range(count):
        print(f"round {number + 1} of {count}", file=sys.stderr, flush=True)
        for setting, results in rounds.items():
            command = [sys.executable, __file__, "--measure", setting]
            results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    cases = list(rounds["+ bfloat16"][0])
    table = {setting: {c: median(r[c] for r in results) for c in cases} for setting, results in rounds.items()}
    print(f"| seconds | {' | '.join(cases)} |\n|{'---|' * (len(cases) + 1)}")
    for setting, seconds in table.items():
        print(f"| {setting} | {' | '.join(f'{seconds[case]:.3f}' for case in cases)} |")
    if records:
        header = {"kind": "header", **hardware("cpu"), "rounds": count, "repeats": REPEATS}
        lines = [header, *({"kind": "tricks", "setting": s, **seconds} for s, seconds in table.items())]
        records.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", choices=SETTINGS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=Path)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(**SETTINGS[args.measure])))
    else:
        main(args.rounds, args.records)
