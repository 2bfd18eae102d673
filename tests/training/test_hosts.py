"""Two machines, made of network namespaces with a switch between them: one is cut off and comes back, one is lost.

They share the disk and the processors of this machine; each has its own name, address and loopback. Needs root.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from host_program import RUNS, SHARED, UPDATES
from metacontrast.experiments.runners import Grid, RunContext, RunStatus, execute_all, run_locally
from metacontrast.training.distributed import ALONE
from metacontrast.training.records import read_records
from rank_program import trained

TESTS = Path(__file__).parents[1]
PYTHON = [sys.executable, str(TESTS / "host_program.py")]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--max-restarts", "3"]
TRAINING = ["--dataset", "glyphs", "--filters", "4", "--meta-batch", "4", "--eval-every", "0", "--workers", "1"]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
TRAINING += ["--updates", "60", "--checkpoint-every", "10"]


def ip(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *map(str, words)], check=check, capture_output=True, text=True)


def namespaces_work() -> bool:
    if os.geteuid() or not shutil.which("ip") or not shutil.which("unshare"):
        return False
    name = f"mc{os.getpid()}-try"
    worked = ip("netns", "add", name, check=False).returncode == 0
    ip("netns", "del", name, check=False)
    return worked


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not namespaces_work(), reason="network namespaces need root, and the commands ip and unshare"),
]


class Process(subprocess.Popen[bytes]):
    """A process, and the file that holds what it says."""

    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def ended(self) -> str:
        """What it said, once it has ended well."""
        assert self.wait(timeout=400) == 0, self.said()
        return self.said()


class Hosts:
    """Machines `one` and `two`, known to each other by name."""

    names = ("one", "two")

    def __init__(self, folder: Path):
        self.space = {name: f"mc{os.getpid()}-{name}" for name in ("switch", *self.names)}
        self.processes: list[Process] = []
        self.files = folder / "hosts"
        self.files.write_text("127.0.0.1 localhost\n10.77.0.1 one\n10.77.0.2 two\n")

    def connect(self) -> None:
        for space in self.space.values():
            ip("netns", "add", space)
        self._at("switch", "link", "add", "bridge", "type", "bridge")
        self._at("switch", "link", "set", "bridge", "up")
        for number, name in enumerate(self.names, 1):
            ip(
                "link",
                "add",
                name,
                "netns",
                self.space["switch"],
                "type",
                "veth",
                "peer",
                "eth0",
                "netns",
                self.space[name],
            )
            self._at("switch", "link", "set", name, "master", "bridge", "up")
            self._at(name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            self._at(name, "link", "set", "eth0", "up")
            self._at(name, "link", "set", "lo", "up")

    def start(self, name: str, *words: object, **more: str) -> "Process":
        """A process on a machine, under the machine's name; what it says goes into a file, which never fills up."""
        setting = f'mount --bind {self.files} /etc/hosts && hostname {name} && exec "$@"'
        inside = ["ip", "netns", "exec", self.space[name], "unshare", "--uts", "--mount", "sh", "-c", setting, "sh"]
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, **more}
        log = self.files.parent / f"log-{len(self.processes)}"
        with log.open("w") as output:
            process = Process([*inside, *map(str, words)], env=environment, stdout=output, stderr=output)
        process.log = log
        self.processes.append(process)
        return process

    def cut_off(self, name: str) -> None:
        self._at("switch", "link", "set", name, "down")

    def bring_back(self, name: str) -> None:
        self._at("switch", "link", "set", name, "up")

    def kill(self, name: str) -> None:
        """Every process of the machine."""
        for number in ip("netns", "pids", self.space[name]).stdout.split():
            os.kill(int(number), signal.SIGKILL)

    def remove(self) -> None:
        for name in self.names:
            self.kill(name)
        for process in self.processes:
            process.wait()
        for space in self.space.values():
            ip("netns", "del", space, check=False)

    def _at(self, name: str, *words: object) -> None:
        ip("-n", self.space[name], *words)


@pytest.fixture
def hosts(tmp_path) -> Iterator[Hosts]:
    machines = Hosts(tmp_path)
    try:
        machines.connect()
        yield machines
    finally:
        machines.remove()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.1)


def torchrun(hosts: Hosts, name: str, nodes: str, *words: object) -> Process:
    """As the documentation says, on each machine; the first keeps the store."""
    flags = ["--nnodes", nodes, "--rdzv-backend", "c10d", "--rdzv-endpoint", "one:29400", "--rdzv-id", "test"]
    return hosts.start(name, *TORCHRUN, *flags, "--rdzv-conf", "last_call_timeout=5", *PYTHON[1:], *words)


def updates(out: Path) -> list[int]:
    file = out / "records.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [each["update"] for each in map(json.loads, lines) if each["kind"] == "training"]


def test_a_machine_cut_off_for_some_seconds_changes_no_parameter(hosts, tmp_path):
    """Two machines come to the parameters of one (1e-10 in float64) and to the same bits, though the cable was out."""
    progress = tmp_path / "update"
    processes = [torchrun(hosts, name, "2", "float64", tmp_path) for name in hosts.names]
    wait_until(lambda: progress.exists() and progress.read_text() >= "1", "the first update")
    hosts.cut_off("two")
    time.sleep(8)
    assert int(progress.read_text()) < UPDATES
    hosts.bring_back("two")
    for process in processes:
        process.ended()
    first, second = (load_file(tmp_path / f"{rank}.safetensors")["found"] for rank in (0, 1))
    assert torch.equal(first, second)
    assert (first - trained(SHARED, ALONE, UPDATES)).abs().max() < 1e-10


def test_a_machine_that_is_lost_is_given_up_and_the_other_goes_on(hosts, tmp_path):
    """With `--nnodes 1:2`. Nothing closes its connections: without signs of life the first would wait for hours."""
    out = tmp_path / "run"
    first, _ = (torchrun(hosts, name, "1:2", "train", *TRAINING, "--out", out) for name in hosts.names)
    wait_until(lambda: len(updates(out)) > 15, "update 15")
    hosts.cut_off("two")
    hosts.kill("two")
    assert "process 1 of this training gave no sign of life for 15 s" in first.ended()
    assert updates(out) == list(range(1, 61))


def test_a_machine_that_is_cut_off_for_long_takes_part_again(hosts, tmp_path):
    """With `--nnodes 2` both give each other up, and start again from the last checkpoint when the network is back."""
    out = tmp_path / "run"
    processes = [torchrun(hosts, name, "2", "train", *TRAINING, "--out", out) for name in hosts.names]
    wait_until(lambda: len(updates(out)) > 15, "update 15")
    hosts.cut_off("two")
    time.sleep(30)
    hosts.bring_back("two")
    for process, other in zip(processes, (1, 0), strict=True):
        assert f"process {other} of this training gave no sign of life" in process.ended()
    assert updates(out) == list(range(1, 61))


def test_when_the_first_machine_is_lost_the_training_ends_in_one_line_and_resumes_on_the_other(hosts, tmp_path):
    """`torchrun` keeps its store on the first machine and cannot go on without; its own wait is not ours to end."""
    out = tmp_path / "run"
    _, second = (torchrun(hosts, name, "2", "train", *TRAINING, "--out", out) for name in hosts.names)
    wait_until(lambda: len(updates(out)) > 15, "update 15")
    hosts.cut_off("one")
    hosts.kill("one")
    wait_until(lambda: "process 0 of this training gave no sign of life for 15 s" in second.said(), "the line")
    hosts.kill("two")
    hosts.start("two", *PYTHON, "train", *TRAINING, "--out", out, "--resume").ended()
    assert updates(out) == list(range(1, 61))


@pytest.fixture
def cluster(hosts) -> Iterator[dict[str, str]]:
    """Ray on both machines, each with one processor; its head on the first. The environment of what joins it."""
    pytest.importorskip("ray", reason="Ray is an extra")
    ray = [Path(sys.executable).parent / "ray", "start", "--num-cpus", 1, "--object-store-memory", 80 * 2**20]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = TOKEN | {"RAY_TMPDIR": folder}
        for name, number, *words in (("one", 1, "--head", "--port", 6379), ("two", 2, "--address", "one:6379")):
            words += ["--node-ip-address", f"10.77.0.{number}"]
            hosts.start(name, *ray, *words, **environment).ended()
        yield environment
        for name in hosts.names:
            hosts.kill(name)


def test_a_grid_on_two_machines_goes_on_when_one_was_cut_off(hosts, cluster, tmp_path):
    """The runs are those of this machine's own pool, bit for bit."""
    out = tmp_path / "ray"
    command = hosts.start("one", *PYTHON, "grid", out, "one:6379", **cluster)
    files = [run.folder(out) / "records.jsonl" for run in RUNS]
    wait_until(lambda: all(file.exists() and len(read_records(file)) > 20 for file in files), "update 20 of each run")
    hosts.cut_off("two")
    time.sleep(10)
    hosts.bring_back("two")
    assert command.ended().splitlines().count("complete") == len(RUNS)
    grid = Grid(RUNS, RunContext(tmp_path / "local"), 1, lambda: False)
    assert {report.status for report in execute_all(grid, run_locally)} == {RunStatus.COMPLETE}
    for run in RUNS:
        one, other = (run.folder(tmp_path / name) for name in ("ray", "local"))
        assert read_records(one / "records.jsonl")[1:] == read_records(other / "records.jsonl")[1:]
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
