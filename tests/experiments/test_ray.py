"""Grids of runs on Ray: the numbers of the local pool, whatever happens to workers, machines and patience."""

import functools
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metacontrast.cli.main import run as command
from metacontrast.errors import InputError
from metacontrast.experiments.runners import (
    Grid,
    RunContext,
    Runner,
    RunReport,
    RunStatus,
    do_nothing,
    execute_all,
    ray,
    run_locally,
)
from metacontrast.experiments.runners.ray import agreement, ray_runner
from metacontrast.experiments.runs import PlannedRun
from metacontrast.training import checkpoint
from metacontrast.training.records import read_records
from planned_runs import planned

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is an extra")
FIGURE = ("figure", "second-order-one-shot", "--scale", "smoke", "--jobs", "1")


def never() -> bool:
    return False


def executed(
    runs: list[PlannedRun],
    root: Path,
    jobs: int,
    should_stop: Callable[[], bool] = never,
    runner: Runner = run_locally,
    prepare: Callable[[], object] = do_nothing,
) -> list[RunReport]:
    return list(execute_all(Grid(runs, RunContext(root), jobs, should_stop, prepare), runner))


def places(root: Path) -> list[str]:
    return [word for name in ("out", "records", "pages") for word in (f"--{name}", str(root / name))]


def trained(run: PlannedRun, root: Path) -> list[dict]:
    return read_records(run.folder(root) / "records.jsonl")[1:]


def last_tensors(run: PlannedRun, root: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(run.folder(root) / "model.safetensors").tensors)


def assert_same_runs(runs: list[PlannedRun], one: Path, other: Path) -> None:
    for run in runs:
        assert trained(run, one) == trained(run, other)
        assert run.measured(one) == run.measured(other)
        first, second = last_tensors(run, one), last_tensors(run, other)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


@needs_ray
@pytest.mark.slow
def test_a_figure_made_by_ray_has_the_records_of_the_local_one(tmp_path, capfd):
    """Byte by byte below the header, which holds the command, and nothing of Ray's is printed or left behind."""
    handler = signal.getsignal(signal.SIGTERM)
    assert command([*FIGURE, *places(tmp_path / "local")]) == 0
    local = capfd.readouterr()
    assert command([*FIGURE, "--runner", "ray", *places(tmp_path / "ray")]) == 0
    rayed = capfd.readouterr()
    first, second = (recorded_lines(tmp_path / name / "records" / "smoke") for name in ("local", "ray"))
    assert first == second
    assert rayed.out == local.out
    assert len(rayed.err.splitlines()) == len(local.err.splitlines())
    assert not list((tmp_path / "ray" / "out").glob(".grid-*"))
    assert signal.getsignal(signal.SIGTERM) is handler


def recorded_lines(folder: Path) -> dict[str, bytes]:
    """Of every run, its records below the header."""
    return {file.name: file.read_bytes().split(b"\n", 1)[1] for file in folder.iterdir()}


def worker_pids(notes: Path) -> list[int]:
    return [int(line) for line in notes.read_text(encoding="utf-8").split()] if notes.exists() else []


def kill_one_in_the_middle(runs: list[PlannedRun], root: Path, notes: Path) -> None:
    """SIGKILL to the worker that began first, once every run has a few updates behind it."""
    while not all((run.folder(root) / "records.jsonl").exists() and len(trained(run, root)) > 20 for run in runs):
        time.sleep(0.05)
    os.kill(worker_pids(notes)[0], signal.SIGKILL)


@needs_ray
@pytest.mark.slow
def test_a_run_whose_worker_is_killed_is_finished_by_another_with_the_same_numbers(tmp_path):
    """A shell that each worker starts notes its parent, which is the worker."""
    runs, root, notes = [planned(seed, 200) for seed in (0, 1)], tmp_path / "ray", tmp_path / "pids"
    prepare = functools.partial(os.system, f"echo $PPID >> '{notes}'")
    killer = threading.Thread(target=kill_one_in_the_middle, args=(runs, root, notes))
    with ray_runner(RunContext(root), 2, None, list, print) as runner:
        killer.start()
        found = executed(runs, root, 2, never, runner, prepare)
    killer.join()
    assert sorted(report.status.value for report in found) == ["complete", "complete", "requeued"]
    assert len(worker_pids(notes)) == 3
    assert {report.status for report in executed(runs, tmp_path / "local", 2)} == {RunStatus.COMPLETE}
    assert_same_runs(runs, root, tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_a_stop_saves_what_runs_and_the_local_pool_goes_on(tmp_path):
    runs, root = [planned(seed, 250) for seed in range(3)], tmp_path / "ray"

    def some_have_begun() -> bool:
        return any((run.folder(root) / "records.jsonl").exists() and len(trained(run, root)) > 10 for run in runs)

    with ray_runner(RunContext(root), 2, None, list, print) as runner:
        found = executed(runs, root, 2, some_have_begun, runner)
    assert {report.status for report in found} == {RunStatus.STOPPED}
    assert not any(run.is_complete(root) for run in runs)
    for place in (root, tmp_path / "local"):
        assert {report.status for report in executed(runs, place, 2)} == {RunStatus.COMPLETE}
    assert_same_runs(runs, root, tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_a_run_that_kills_every_worker_fails_alone(tmp_path):
    """Only the first task of a worker finds no note yet: every later one kills its worker before it computes."""
    runs, notes = [planned(seed, 4) for seed in (0, 1)], tmp_path / "seen"
    prepare = functools.partial(os.system, f"test -e '{notes}' && kill -9 $PPID; touch '{notes}'")
    with ray_runner(RunContext(tmp_path / "ray"), 1, None, list, print) as runner:
        found = executed(runs, tmp_path / "ray", 1, never, runner, prepare)
    statuses = [report.status for report in found]
    assert statuses == [RunStatus.COMPLETE, *[RunStatus.REQUEUED] * ray.RETRIES, RunStatus.FAILED]
    assert found[-1].reason.startswith(f"its worker died {ray.RETRIES + 1} times")


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a cluster of two nodes that lasts for a test, and the environment that may join it."""
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    words = [sys.executable, "-c", CLUSTER]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip(), environment
        process.communicate()


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_is_there_makes_the_figure_and_stays(cluster, tmp_path):
    address, environment = cluster
    words = [sys.executable, "-m", "metacontrast", *FIGURE, "--runner", "ray", "--address", address]
    for name in ("one", "two"):
        done = subprocess.run([*words, *places(tmp_path / name)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "[6/6" in done.stderr
        assert "note:" not in done.stderr
    assert command([*FIGURE, *places(tmp_path / "local")]) == 0
    first, *others = (recorded_lines(tmp_path / name / "records" / "smoke") for name in ("local", "one", "two"))
    assert others == [first, first]


@needs_ray
@pytest.mark.slow
def test_ctrl_c_ends_the_command_and_its_ray(tmp_path):
    """As a terminal does it: to every process of the group. The folder of Ray's sockets and logs is gone as well."""
    words = [sys.executable, "-m", "metacontrast", "figure", "inner-steps", "--scale", "smoke", "--runner", "ray"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    if len(str(tmp_path)) > 40:
        environment.pop("TMPDIR")
    process = subprocess.Popen(
        [*words, *places(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    with process:
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("[1/") for line in lines)
        os.killpg(process.pid, signal.SIGINT)
        rest = list(lines)
    assert process.returncode == 130
    assert rest[-1] == "stopped and saved; the same command continues\n"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def refused(capsys, *words: str) -> str:
    assert command(["figure", "second-order-one-shot", "--scale", "smoke", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("metacontrast: error: ")
    return error


def test_without_ray_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'metacontrast[ray]'" in refused(capsys, "--runner", "ray")


def test_an_address_needs_the_engine(capsys):
    assert "give --runner ray with it" in refused(capsys, "--address", "10.0.0.1:6379")


@needs_ray
def test_the_device_of_a_cluster_is_said(capsys):
    words = ("--runner", "ray", "--address", "auto", "--device", "auto")
    assert "give cpu or cuda" in refused(capsys, *words)


@needs_ray
@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:port", ":6379", "head:99999"])
def test_an_address_is_a_host_and_a_port(address, tmp_path, capsys):
    words = ("--runner", "ray", "--address", address, *places(tmp_path))
    assert f"--address {address} is not HOST:PORT" in refused(capsys, *words)


@needs_ray
def test_an_address_where_nothing_answers_is_one_line(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    words = ("--runner", "ray", "--address", f"127.0.0.1:{port}", *places(tmp_path))
    assert f"no Ray cluster answers at --address 127.0.0.1:{port}" in refused(capsys, *words)


@needs_ray
def test_an_address_where_something_else_answers_is_one_line(tmp_path, capsys):
    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        words = ("--runner", "ray", "--address", address, *places(tmp_path))
        assert f"what answers at --address {address} is not a Ray cluster" in refused(capsys, *words)
        thread.join()


@needs_ray
def test_auto_without_a_cluster_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = ("--runner", "ray", "--address", "auto", *places(tmp_path))
    assert "--address auto cannot be joined from this machine: Could not find" in refused(capsys, *words)


def no_data() -> None:
    raise InputError("glyphs are not there")


def test_a_machine_that_shares_everything_may_take_part(tmp_path):
    with agreement(tmp_path / "runs", list) as agreed:
        assert agreed.breach() == ""
        assert agreed.locks_reach_here()
    assert not list((tmp_path / "runs").iterdir())


def test_a_machine_that_does_not_see_the_runs_says_so(tmp_path):
    with agreement(tmp_path / "runs", list) as agreed:
        elsewhere = replace(agreed, marker=tmp_path / "other" / agreed.marker.name)
        assert f"does not see the runs in {tmp_path / 'other'}" in elsewhere.breach()


def test_a_machine_with_another_version_says_which(tmp_path):
    with agreement(tmp_path, list) as agreed:
        other = replace(agreed, versions=agreed.versions | {"torch": "1.0"})
        assert f"torch {agreed.versions['torch']}, not 1.0" in other.breach()


def test_a_machine_without_the_data_says_so(tmp_path):
    with agreement(tmp_path, no_data) as agreed:
        assert agreed.breach().endswith("does not see the data: glyphs are not there")


def test_locks_that_do_not_reach_are_noticed(tmp_path):
    """As on a file system where they stay with the machine: nobody seems to hold this one."""
    with agreement(tmp_path, list) as agreed:
        agreed.marker.unlink()
        assert not agreed.locks_reach_here()


def test_what_is_written_elsewhere_is_waited_for_and_then_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "VISIBLE_SECONDS", 0.0)
    assert not ray._is_seen(planned(0, 2), RunContext(tmp_path))


def test_a_stopping_grid_does_not_take_up_what_died():
    run = planned(0, 2)
    queue = ray._Queue(deque(), is_stopping=True)
    assert queue.requeue(run, "killed").status is RunStatus.STOPPED
    assert not queue.todo
