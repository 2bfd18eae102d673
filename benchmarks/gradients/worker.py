"""The near end of an engine's process."""

import contextlib
import json
import signal
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from gradients.engines import Engine
from gradients.peers.job import Job


class Worker:
    """An engine at work on one job: started, asked for one measurement at a time, then finished.

    `refused` says why there is none to be had, if so.
    """

    def __init__(self, engine: Engine, job: Job, folder: Path):
        self.refused = engine.missing
        self._errors = folder / f"{engine.name}.txt"
        self._process: subprocess.Popen[str] | None = None
        if not self.refused:
            with self._errors.open("w") as errors:
                self._process = subprocess.Popen(
                    engine.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
                )
            self._ask(json.dumps(asdict(job)))

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.communicate()

    def measure(self) -> Any:
        """Seconds, or seconds by way; None when the engine has given up."""
        return None if self.refused else self._ask("run").get("seconds")

    def finish(self) -> float | None:
        """End the process; its peak memory in 10⁶ bytes."""
        if self.refused or self._process is None:
            return None
        out, _ = self._process.communicate()
        return json.loads(out)["peak_mb"]

    def _ask(self, line: str) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line + "\n")
            process.stdin.flush()
        text = process.stdout.readline()
        answer = json.loads(text) if text else {"refused": self._last_words()}
        self.refused = answer.get("refused")
        return answer

    def _last_words(self) -> str:
        """Why the process ended without an answer."""
        process = self._process
        assert process is not None
        status = process.wait()
        if status < 0:
            hint = ", perhaps for want of memory" if status == -signal.SIGKILL else ""
            return f"ended by {signal.Signals(-status).name}{hint}"
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return lines[-1][:120] if lines else f"ended with status {status}"


def exact_gradient(engine: Engine, job: Job, folder: Path) -> np.ndarray | str:
    """The engine's outer gradient in float64 as one vector, or why there is none.

    In float32 the same mathematics differs by up to some per cent, where rounding tips a ReLU or a max-pool.
    """
    path = folder / f"{engine.name}.npz"
    with Worker(engine, replace(job, dtype="float64", gradient=str(path)), folder) as worker:
        if worker.refused:
            return worker.refused
    with np.load(path) as file:
        return np.concatenate([file[f"g{i}"].ravel() for i in range(len(file.files))])
