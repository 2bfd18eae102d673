"""The process of one engine: it reads a job, says that it is ready, and answers every `run` with a measurement.

One JSON object a line, both ways. What libraries print goes to standard error.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .job import Job, Refusal

Measure = Callable[[], dict[str, Any]]


def serve(start: Callable[[Job], Measure]) -> None:
    """Answer until standard input ends; then say how much memory it took."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=channel, flush=True)

    job = Job(**json.loads(sys.stdin.readline()))
    torch.set_default_dtype(getattr(torch, job.dtype))
    try:
        measure = start(job)
        answer(ready=True)
        for _ in sys.stdin:
            answer(**measure())
        answer(peak_mb=peak_mb(job.device))
    except (Refusal, ImportError, RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        answer(refused=str(error) if isinstance(error, Refusal) else _in_words(error))


def timed(prepare: Callable[[Job], Callable[[], list[Tensor]]]) -> Callable[[Job], Measure]:
    """Seconds of an engine's outer gradient that follows another one, as in training; the first is for comparison.

    Straight after another engine's turn the caches hold that one's data.
    """

    def start(job: Job) -> Measure:
        run = prepare(job)
        job.write_gradient(run())

        def measure() -> dict[str, Any]:
            run()
            _finish(job.device)
            begin = time.perf_counter()
            run()
            _finish(job.device)
            return {"seconds": time.perf_counter() - begin}

        return measure

    return start


def peak_mb(device: str) -> float:
    """The most memory that the process has held, in 10⁶ bytes: of the GPU there, else resident.

    `ru_maxrss` would count what the starting process held before it became this one, so Linux's own mark for the
    program is read where there is one.
    """
    if device != "cpu":
        return torch.cuda.max_memory_reserved() / 1e6
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    marks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return (marks[0] if marks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024 / 1e6


def _finish(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _in_words(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line[:120]}"


def main(adapter: str) -> None:
    """Serve a peer, `module` or `module:function`."""
    module, _, function = adapter.partition(":")
    serve(timed(getattr(importlib.import_module(f".{module}", __package__), function or "prepare")))


if __name__ == "__main__":
    main(sys.argv[1])
