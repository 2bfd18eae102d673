"""The numeric tests as other processors would run them: instruction sets capped, and with several threads.

PyTorch's own kernels, oneDNN's and MKL's are chosen by the processor, each by a cap of its own, and round differently.
Every cap and number of threads is in one of these combinations; one above what this processor has is left out.

    python tests/processors.py
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

TESTS = (
    "maml/test_engine.py",
    "model",
    "theory/test_coefficients.py",
    "theory/test_decomposition.py",
    "theory/test_head_updates.py",
    "training/test_evaluate.py",
    "training/test_train.py::test_an_update_is_the_references_with_plain_gradient_descent",
    "training/test_train.py::test_a_stopped_run_resumes_bit_for_bit",
    "classifier/test_calibration.py",
    "classifier/test_estimator.py",
    "classifier/test_explanation.py",
    "classifier/test_scikit_learn.py",
)
HANGS_AFTER_S = 120
"""Seconds that one test may take before its threads are printed; the slowest takes 20."""
STOPPED_AFTER_S = 1800
"""Seconds that a combination may take before it counts as failed; the slowest takes 400."""
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""A thread that waits for others sleeps. One that spins keeps a core from them where other programs run too."""
LEVELS = {"DEFAULT": 0, "AVX2": 1, "AVX512": 2}


class Combination(NamedTuple):
    """Threads in every operation, the instruction set that it needs, and the caps."""

    threads: int
    level: int
    caps: str


COMBINATIONS = (
    Combination(1, 0, ""),
    Combination(4, 0, ""),
    Combination(2, 0, "ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2"),
    Combination(1, 1, "ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2"),
    Combination(2, 2, "ATEN_CPU_CAPABILITY=avx512 ONEDNN_MAX_CPU_ISA=AVX512_CORE MKL_ENABLE_INSTRUCTIONS=AVX512"),
    Combination(1, 1, "ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE"),
    Combination(4, 1, "ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2"),
)


def passes(combination: Combination) -> bool:
    """Run the tests in a process of their own; one that never ends has failed."""
    caps = dict(word.split("=") for word in combination.caps.split())
    threads = str(combination.threads)
    environment = os.environ | caps | WAITING | {"OMP_NUM_THREADS": threads, "METACONTRAST_TEST_THREADS": threads}
    command = [sys.executable, "-m", "pytest", "-m", "not slow", "-o", f"faulthandler_timeout={HANGS_AFTER_S}", *TESTS]
    try:
        finished = subprocess.run(command, cwd=Path(__file__).parent, env=environment, timeout=STOPPED_AFTER_S)
    except subprocess.TimeoutExpired:
        return False
    return finished.returncode == 0


def main() -> int:
    """1 if any combination fails."""
    level, failed = LEVELS.get(torch.backends.cpu.get_cpu_capability(), 0), 0
    for combination in COMBINATIONS:
        name = f"{combination.threads} thread(s), {combination.caps or 'nothing capped'}"
        if combination.level > level:
            print(f"skipped: {name}: this processor has less", flush=True)
            continue
        began = time.monotonic()
        result = "passed" if passes(combination) else "FAILED"
        failed += result == "FAILED"
        print(f"{result}: {name}: {time.monotonic() - began:.0f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
