"""A training that several processes share equals the same training of one, and survives the death of a process."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import HashStore, PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from metacontrast.errors import InputError
from metacontrast.training import distributed
from metacontrast.training.distributed import ALONE, Distributed, _start, joined, watched
from rank_program import CONFIGS, trained

PROGRAM = Path(__file__).parents[1] / "rank_program.py"
TESTS = Path(__file__).parents[1]


UPDATES = 40


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_in_processes(count, folder):
    """`rank_program` in so many processes on loopback; what each found."""
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environments = [
        {**os.environ, **{name: str(v) for name, v in common.items()}, "RANK": str(rank), "PYTHONPATH": path}
        for rank in range(count)
    ]
    command = [sys.executable, PROGRAM, folder]
    processes = [subprocess.Popen(command, env=each, stderr=subprocess.PIPE) for each in environments]
    for process in processes:
        _, complaint = process.communicate(timeout=600)
        assert process.returncode == 0, complaint.decode()
    return [load_file(folder / f"{rank}.safetensors") for rank in range(count)]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return run_in_processes(2, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", list(CONFIGS))
def test_two_processes_come_to_the_parameters_and_metrics_of_one(two_ranks, name):
    """Five tasks an update, so that the shares are unequal; the second process starts from zeros."""
    alone = trained(CONFIGS[name], ALONE)
    assert (two_ranks[0][name] - alone).abs().max() < 1e-10
    assert (trained(CONFIGS[name], ALONE, updates=3) - alone).abs().max() > 1e-4


@pytest.mark.parametrize("name", list(CONFIGS))
def test_all_processes_have_the_same_bits(two_ranks, name):
    assert torch.equal(two_ranks[0][name], two_ranks[1][name])


def test_what_one_process_is_asked_all_are(two_ranks):
    assert all(ranks["asked"].tolist() == [True, False] for ranks in two_ranks)


def test_other_flags_or_data_in_one_process_are_told_by_all(two_ranks):
    """Their gradients would be of another training."""
    assert all(ranks["told"].all() for ranks in two_ranks)
    ALONE.check_same({"configuration": "a"})


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("tasks", [5, 6, 32])
def test_every_task_belongs_to_one_rank(count, tasks):
    update = range(tasks, 2 * tasks)
    shares = [Distributed(rank, count).shard(update) for rank in range(count)]
    assert [task for share in shares for task in share] == list(update)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_tasks_that_are_compared_stay_together():
    """Seven pairs for three processes."""
    shares = [Distributed(rank, 3).shard(range(14), 2) for rank in range(3)]
    assert [list(share)[::2] for share in shares] == [[0, 2], [4, 6], [8, 10, 12]]
    assert [task for share in shares for task in share] == list(range(14))


def test_more_processes_than_tasks_are_refused():
    with pytest.raises(InputError, match="2 tasks cannot be shared by 3 processes: start at most 2"):
        Distributed(0, 3).shard(range(2))
    with pytest.raises(InputError, match="4 tasks of which 2 stay together cannot be shared by 3 processes"):
        Distributed(0, 3).shard(range(4), 2)


def test_without_torchrun_a_process_is_alone():
    with joined("cpu") as ranks:
        assert ranks == ALONE
        assert ranks.any(True)
        assert not ranks.any(False)


def test_a_leader_that_cannot_be_reached_is_one_line(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "7", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="cannot be reached"), joined("cpu"):
        pass


def test_a_restart_has_a_part_of_the_store_without_the_names_of_dead_processes():
    """The processes of the first start left all their keys; the second comes in another order, 1 long before 0."""
    store = HashStore()
    store.set_timeout(timedelta(seconds=60))

    def started(*ranks):
        with ThreadPoolExecutor(len(ranks)) as pool:
            found = []
            for rank in ranks:
                found.append(pool.submit(_start, store, rank, len(ranks)))
                time.sleep(0.05)
            return {each.result(timeout=60) for each in found}

    (first,), (second,) = started(0, 1, 2), started(1, 2, 0)
    assert first != second


def test_no_thread_is_in_the_store_when_a_process_ends(monkeypatch):
    """The interpreter ends threads by force, which PyTorch answers with an abort of the process."""
    port = free_port()
    monkeypatch.setattr(distributed, "_BEAT", 0.0)
    monkeypatch.setattr(distributed, "SILENCE", 3600.0)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    before = threading.active_count()
    with watched("start", 0, 2):
        assert threading.active_count() == before + 2
        while int(PrefixStore("start", store).get("life/0")) == 0:
            time.sleep(0.01)
    assert threading.active_count() == before


def torchrun(count, out, *flags):
    flags = [*flags, "--dataset", "glyphs", "--filters", "4", "--meta-batch", "4", "--eval-every", "0"]
    flags += ["--updates", str(UPDATES), "--checkpoint-every", "5", "--out", out]
    started = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--max-restarts", "5"]
    started += ["--master-port", str(free_port())]
    return subprocess.Popen(
        [*started, "-m", "metacontrast", "train", *map(str, flags)], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )


def wait_for_update(out, number):
    deadline = time.monotonic() + 600
    while not (out / "records.jsonl").exists() or len((out / "records.jsonl").read_text().splitlines()) <= number:
        assert time.monotonic() < deadline, "training did not get so far"
        time.sleep(0.05)


def child_of(process, number):
    """Process identifier of one that torchrun started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(sorted(children, key=int)[number])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_process_dies_all_start_again_from_the_last_checkpoint(tmp_path, victim):
    out = tmp_path / "run"
    process = torchrun(2, out)
    wait_for_update(out, 12)
    os.kill(child_of(process, victim), signal.SIGKILL)
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint.decode()
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert [each["update"] for each in records if each["kind"] == "training"] == list(range(1, UPDATES + 1))


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(tmp_path):
    out = tmp_path / "run"
    process = torchrun(2, out)
    wait_for_update(out, 12)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    done = len((out / "records.jsonl").read_text().splitlines())
    assert done < UPDATES
    process = torchrun(3, out, "--resume")
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint.decode()
    assert (out / "records.jsonl").read_text().count('"kind": "training"') == UPDATES
