"""Runs as tasks of a Ray cluster: each is started again when its worker dies, at most a few times.

A machine of the cluster takes part only if it sees the folder of runs and the data, and has the same versions.

The cluster is one that is there, or one on this machine for as long as the work takes.
"""

import contextlib
import os
import platform
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metacontrast.errors import InputError, InUseError, first_line, require_extra
from metacontrast.experiments.runners import POLL_SECONDS, Grid, Run, RunContext, Runner, RunReport, RunStatus, attempt
from metacontrast.files import exclusive
from metacontrast.version import __version__

_OBJECT_STORE = 80 * 2**20
"""Runs exchange files, not objects: close to the least that Ray takes."""
_ANSWER_SECONDS = 5.0
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4


def require_ray() -> None:
    """Raise when Ray is not installed."""
    require_extra("--runner ray", "ray", "ray")


@contextlib.contextmanager
def connected(address: str | None, cpus: int) -> Iterator[None]:
    """Connect to the cluster at `address`, or without one start a Ray of `cpus` processors on this machine.

    What Ray prints to standard output meanwhile is dropped: that belongs to the caller's results.
    """
    require_ray()
    _settle(is_local=address is None)
    import ray

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        if address is None:
            folder = tempfile.TemporaryDirectory(prefix="metacontrast-ray-", ignore_cleanup_errors=True)
            own = {"num_cpus": cpus, "object_store_memory": _OBJECT_STORE, "_temp_dir": stack.enter_context(folder)}
            _init("no Ray can be started on this machine", address="local", include_dashboard=False, **own)
        else:
            if address != "auto":
                _check_answers(address)
            _init(f"the Ray cluster at --address {address} cannot be joined from this machine", address=address)
        stack.callback(ray.shutdown)
        yield


def _settle(is_local: bool) -> None:
    """Set Ray's environment, which it reads when it is first imported and hands to its processes.

    No statistics of usage are sent. A Ray of our own listens on the network, so it asks for a token; made here, it
    need not be kept in a file in the user's home. Its workers get their share of a busy machine, as processes of the
    local runner do; Ray would put them last.
    """
    if "ray" in sys.modules:
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    if is_local:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ.update(token, RAY_worker_niceness="0")


def _init(problem: str, **options: Any) -> None:
    """Call `ray.init` without its log and without its handler of SIGTERM; name the `problem` where it fails."""
    import ray
    from ray.exceptions import RayError

    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, configure_logging=False, **options)
    except (OSError, RuntimeError, ValueError, RayError, SystemExit) as error:
        raise InputError(f"{problem}: {first_line(error)}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_answers(address: str) -> None:
    """Raise unless something at `address` speaks as a cluster does: Ray itself would wait for minutes, noisily."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit() or int(port) > 65535:
        raise InputError(
            f"--address {address} is not HOST:PORT of a cluster's head (as `ray start --head --port 6379` prints it) "
            "or auto: give one of them, and run the command on a machine of the cluster"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS) as connection:
            connection.sendall(_HTTP2_HELLO)
            answer = connection.recv(9)
    except OSError as error:
        raise InputError(
            f"no Ray cluster answers at --address {address} ({error.strerror or error}): is its head running there?"
        ) from error
    if len(answer) < 4 or answer[3] != _SETTINGS_FRAME:
        raise InputError(f"what answers at --address {address} is not a Ray cluster: give the port of its head")


RETRIES = 3
ANSWER_SECONDS = 120.0
VISIBLE_SECONDS = 90.0
"""For how long a machine may not see what another wrote to a shared file system: NFS keeps listings for a minute."""


@dataclass(frozen=True)
class Agreement:
    """Conditions that all machines must share: the folder of runs, the versions, the data.

    Args:
        marker: a file in the folder of runs that was made for this grid and is locked as long as it lasts.
        versions: of what decides the numbers.
        check_data: raises `InputError` where the data are not there.
    """

    marker: Path
    versions: dict[str, str]
    check_data: Callable[[], object]

    def breach(self) -> str:
        """Say in one line why this machine cannot take part; empty when it can."""
        here, others = platform.node(), versions()
        if not self.marker.exists():
            return f"{here} does not see the runs in {self.marker.parent}: choose an --out that all machines share"
        for name, wanted in self.versions.items():
            if others[name] != wanted:
                return f"{here} has {name} {others[name]}, not {wanted}: install the same version everywhere"
        try:
            self.check_data()
        except InputError as error:
            return f"{here} does not see the data: {error}"
        return ""

    def locks_reach_here(self) -> bool:
        """Whether this machine notices a lock that the machine which made the marker holds."""
        try:
            with exclusive(self.marker, "held, as it should be"):
                return False
        except InUseError:
            return True


def versions() -> dict[str, str]:
    """Return the versions of what decides the numbers, without the kind of build."""
    found = {"metacontrast": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return {name: str(version).partition("+")[0] for name, version in found.items()}


@contextlib.contextmanager
def agreement(runs: Path, check_data: Callable[[], object]) -> Iterator[Agreement]:
    """Make an agreement whose marker lies in the folder `runs`."""
    marker = runs / f".grid-{secrets.token_hex(8)}"
    with exclusive(marker, "held by this grid"):
        try:
            yield Agreement(marker, versions(), check_data)
        finally:
            marker.unlink(missing_ok=True)


@contextlib.contextmanager
def ray_runner(
    context: RunContext, jobs: int, address: str | None, check_data: Callable[[], object], say: Callable[[str], None]
) -> Iterator[Runner]:
    """Open a runner on the cluster at `address`, or without one on a Ray of its own with `jobs` processors.

    Args:
        context: with absolute paths, the same on every machine.
        check_data: raises `InputError` on a machine that lacks the data.

    Raises:
        InputError: there is no such cluster, or one of its machines cannot take part.
    """
    with connected(address, jobs), agreement(context.runs, check_data) as agreed:
        _check_resources(context)
        if address is not None:
            _check_machines(agreed, say)
        yield partial(_execute, agreed)


def _check_resources(context: RunContext) -> None:
    import ray

    wanted = "GPU" if context.device == "cuda" else "CPU"
    if ray.cluster_resources().get(wanted, 0) < 1:
        raise InputError(
            f"the Ray cluster offers no {wanted} for --device {context.device}: add one or change --device"
        )


def _check_machines(agreed: Agreement, say: Callable[[str], None]) -> None:
    """Ask every machine whether it can take part."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    answers = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU"):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answers[node["NodeManagerAddress"]] = look.options(scheduling_strategy=there).remote(agreed)
    for machine, answer in answers.items():
        try:
            breach, locks_reach = ray.get(answer, timeout=ANSWER_SECONDS)
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"the machine {machine} of the Ray cluster cannot take part: {reason}") from error
        if breach:
            raise InputError(breach)
        if not locks_reach:
            say(f"note: locks in {agreed.marker.parent} are not shared with {machine}: start no second grid here")


def _look(agreed: Agreement) -> tuple[str, bool]:
    breach = agreed.breach()
    return breach, not breach and agreed.locks_reach_here()


@dataclass
class _Queue:
    """Runs to be started, runs under way, and how often workers died."""

    todo: deque[Run]
    running: dict[Any, Run] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    is_stopping: bool = False

    def start(self, submit: Callable[[Run], Any], at_once: int) -> None:
        while self.todo and len(self.running) < at_once:
            run = self.todo.popleft()
            self.running[submit(run)] = run

    def stop(self) -> None:
        """Start nothing more, and ask those that run to save and end."""
        import ray

        self.is_stopping = True
        self.todo.clear()
        for reference in self.running:
            ray.cancel(reference, force=False)

    def requeue(self, run: Run, reason: str) -> RunReport:
        """Requeue a run whose worker died, at most `RETRIES` times."""
        self.deaths[run.key] += 1
        if self.deaths[run.key] > RETRIES:
            reason = f"its worker died {self.deaths[run.key]} times, the last time: {reason}"
            return RunReport(run, RunStatus.FAILED, reason)
        if self.is_stopping:
            return RunReport(run, RunStatus.STOPPED)
        self.todo.append(run)
        return RunReport(run, RunStatus.REQUEUED, "its worker died, another takes it up")


def _execute(agreed: Agreement, grid: Grid) -> Iterator[RunReport]:
    import ray

    gpus = 1 if grid.context.device == "cuda" else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_work)
    queue = _Queue(deque(grid.runs))
    try:
        while queue.todo or queue.running:
            queue.start(lambda run: task.remote(run, grid.context, agreed, grid.prepare), grid.jobs)
            done, _ = ray.wait(list(queue.running), timeout=POLL_SECONDS)
            if grid.should_stop() and not queue.is_stopping:
                queue.stop()
            for reference in done:
                run = queue.running.pop(reference)
                if (report := _report(reference, run, grid.context, queue)) is not None:
                    yield report
    finally:
        queue.stop()


def _report(reference: Any, run: Run, context: RunContext, queue: _Queue) -> RunReport | None:
    """Return how a run ended; None where it was cancelled before it began."""
    import ray
    from ray.exceptions import RayError, RayTaskError, TaskCancelledError

    try:
        report: Any = ray.get(reference)
    except TaskCancelledError:
        return None
    except RayTaskError:
        raise
    except RayError as error:
        return queue.requeue(run, first_line(error))
    if report.status is RunStatus.COMPLETE and not _is_seen(run, context):
        reason = f"what its worker wrote is not seen in {context.runs}: choose an --out that all machines share"
        return RunReport(run, RunStatus.FAILED, reason)
    return report


def _is_seen(run: Run, context: RunContext) -> bool:
    """Whether a run that is complete elsewhere is so here, at once or when the file system has caught up."""
    until = time.monotonic() + VISIBLE_SECONDS
    while not run.is_complete(context.runs):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _work(run: Run, context: RunContext, agreed: Agreement, prepare: Callable[[], object]) -> RunReport:
    """Execute a run in a worker. Ray cancels by an interrupt, which here means: save after this update and end."""
    import ray

    signal.signal(signal.SIGINT, lambda *_: None)
    torch.set_num_threads(1)
    prepare()
    if breach := agreed.breach():
        return RunReport(run, RunStatus.FAILED, breach)
    return attempt(run, context, ray.get_runtime_context().is_canceled)
