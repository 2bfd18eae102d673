"""The memory that an update is said to need, against what its tensors and the process take."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metacontrast.device import MoreThanAllowed, free_bytes, peak_bytes
from metacontrast.errors import InputError
from metacontrast.training import memory
from metacontrast.training.config import TrainConfig
from metacontrast.training.memory import estimate_memory, fit_to_memory
from metacontrast.training.step import Resources
from metacontrast.training.train_run import initial_state, outer_step
from toy_images import noisy_images

IMAGES = noisy_images(seed=0), noisy_images(seed=1)
SMALL = TrainConfig(filters=8, ways=3, shots=2, queries=3, meta_batch=4, inner_steps=3, head="learned")
LOOP, VMAP = Resources(engine="loop"), Resources(engine="vmap")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """The number of tasks in a group depends on the machine's."""
    monkeypatch.setattr("metacontrast.maml.engine._CORES", 2)


def test_tensors_count_while_they_live():
    """Two of 4,000 bytes at once, then a third in the place of both; a view is none, nor is what was there before."""
    given = torch.zeros(10**6)

    def work():
        one = given[:1000] + 1
        two = one + 1
        view = two[:10]
        del one, two, view
        torch.zeros(1000)

    assert peak_bytes(work, inputs=[given]) == 8000


def test_work_is_broken_off_where_it_outgrows_what_is_allowed():
    reached = []

    def work():
        kept = [torch.zeros(1000)]
        reached.append(1)
        kept.append(torch.zeros(1000))
        reached.append(2)

    with pytest.raises(MoreThanAllowed):
        peak_bytes(work, most=5000)
    assert reached == [1]


CHANGES = (
    {},
    {"inner_steps": 6},
    {"inner_scope": "head"},
    {"inner_scope": "encoder"},
    {"norm": "inductive"},
    {"optimizer": "sgd", "meta_batch": 6},
    {"head": "prototype"},
)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(
    ("changed", "resources"),
    [pytest.param(changed, LOOP, id=f"{changed}-loop") for changed in CHANGES]
    + [
        pytest.param(changed, VMAP, id=f"{changed}-vmap", marks=[pytest.mark.slow] if changed else [])
        for changed in CHANGES
    ],
)
def test_the_need_is_what_an_updates_tensors_hold(changed, order, resources, monkeypatch):
    """Images, parameters and moments included: never less than counted in full, and at most 1.4 times as much."""
    monkeypatch.setattr(memory, "_BESIDE_TENSORS", {"loop": 1, "vmap": 1})
    config = replace(SMALL, order=order, **changed)
    model = config.model(IMAGES[0].shape)

    def run() -> None:
        state = initial_state(config, model, "cpu")
        outer_step(config, model, resources)(state, config.training_tasks(IMAGES[0]).batch(range(config.meta_batch)))

    counted = peak_bytes(run)
    assert counted <= estimate_memory(config, IMAGES, resources).total <= 1.4 * counted


def test_every_worker_has_tasks_of_its_own():
    """Twelve small tasks come in two sixes, whatever the number of workers."""
    config = replace(SMALL, meta_batch=12)
    one, two, many = (estimate_memory(config, IMAGES, Resources(workers=n)) for n in (1, 2, 9))
    assert two.total - one.total == one.part
    assert (one.parts, many.parts) == (1, 2)


def test_the_contrastive_objective_is_measured_too():
    config = replace(SMALL, method="contrastive", inner_scope="head", inner_steps=1)
    assert estimate_memory(config, IMAGES, VMAP).part > 0


def free(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: size)


def test_the_chunk_is_the_largest_that_fits(monkeypatch):
    """All tasks where there is room or nobody knows, one at least; a chunk that was asked for stays."""
    free(monkeypatch, None)
    assert fit_to_memory(SMALL, IMAGES, VMAP)[0].chunk is None
    free(monkeypatch, 10**12)
    assert fit_to_memory(SMALL, IMAGES, VMAP)[0].chunk == SMALL.meta_batch
    assert fit_to_memory(SMALL, IMAGES, replace(VMAP, chunk=3))[0].chunk == 3
    assert fit_to_memory(SMALL, IMAGES, LOOP)[0].chunk is None
    whole = estimate_memory(SMALL, IMAGES, VMAP)
    for tasks in (1, 2, 3):
        free(monkeypatch, int((whole.fixed + (tasks + 0.5) * whole.part) / 0.8))
        assert fit_to_memory(SMALL, IMAGES, VMAP)[0].chunk == tasks
    free(monkeypatch, whole.fixed + whole.part)
    assert fit_to_memory(SMALL, IMAGES, VMAP)[0].chunk == 1


@pytest.mark.parametrize(
    ("changed", "resources", "parts_that_fit", "message"),
    [
        ({"meta_batch": 64}, replace(LOOP, workers=4), 2.5, r"of memory, and .* MB are free: use --workers 2"),
        ({}, replace(VMAP, chunk=4), 2.5, r"are free: use --chunk 2"),
        ({}, LOOP, 0.4, r"take more than the .* free: lower --queries, --shots, --ways or --filters"),
        ({"order": "second"}, LOOP, 0.7, r"use --order first, or lower --inner-steps, --queries, .* --filters"),
        ({"meta_batch": 500}, LOOP, -1, r"lower --meta-batch or --filters"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_flag_to_change(changed, resources, parts_that_fit, message, monkeypatch):
    config = replace(SMALL, **changed)
    whole = estimate_memory(config, IMAGES, resources)
    free(monkeypatch, int(whole.fixed + parts_that_fit * whole.part))
    with pytest.raises(InputError, match=message + "; or say with --memory how many GB may be taken$"):
        fit_to_memory(config, IMAGES, resources)
    fit_to_memory(config, IMAGES, replace(resources, memory=10**9))


def test_free_memory_is_the_least_of_what_system_and_container_leave(tmp_path):
    """Kernel, control groups of both versions, the files that a group has cached, and nothing at all."""
    assert free_bytes("cpu", tmp_path) is None
    files = {
        "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n",
        "proc/self/cgroup": "4:memory:/box/own\n3:cpu:/box\n0::/box\n",
        "sys/fs/cgroup/memory/box/own/memory.limit_in_bytes": "9000000\n",
        "sys/fs/cgroup/memory/box/own/memory.usage_in_bytes": "6000000\n",
        "sys/fs/cgroup/memory/box/own/memory.stat": "total_inactive_file 500000\n",
        "sys/fs/cgroup/box/memory.max": "max\n",
        "sys/fs/cgroup/box/memory.current": "6000000\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_bytes("cpu", tmp_path) == 3_500_000
    (tmp_path / "sys/fs/cgroup/box/memory.max").write_text("8000000\n")
    assert free_bytes("cpu", tmp_path) == 2_000_000
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 1000 kB\n")
    assert free_bytes("cpu", tmp_path) == 1_024_000


IN_A_PROCESS = """
import resource, sys, torch
from dataclasses import replace
from pathlib import Path
from metacontrast.device import keep_freed_memory
from metacontrast.training.config import TrainConfig
from metacontrast.training.memory import estimate_memory
from metacontrast.training.step import Resources
from metacontrast.training.train_run import initial_state, outer_step
from toy_images import noisy_images

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def updates(config, images, count, resources=Resources()):
    model, tasks = config.model(images.shape), config.training_tasks(images)
    state = initial_state(config, model, "cpu")
    for first in range(0, count * config.meta_batch, config.meta_batch):
        outer_step(config, model, resources)(state, tasks.batch(range(first, first + config.meta_batch)))
        yield resident()

keep_freed_memory()
torch.set_num_threads(1)
"""


def in_a_process(code: str, *words: str) -> list[int]:
    """The numbers that a fresh process prints, so that what other tests took does not count."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("the system does not say how much memory a process has")
    command = [sys.executable, "-c", IN_A_PROCESS + code, *words]
    here = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=here)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "most"), [("loop", 1.5), ("vmap", 2)])
@pytest.mark.parametrize("order", ["first", "second"])
def test_the_need_is_what_the_process_grows_by(order, engine, most):
    """Peak of resident memory over one update at 84×84 after a small one: a third less, or a half or all more."""
    code = """
order, engine = sys.argv[1:]
resources = Resources(engine=engine)
config = TrainConfig(filters=32, encoder="conv4", meta_batch=2, inner_steps=3, inner_lr=0.01, order=order)
list(updates(replace(config, filters=4), noisy_images(size=36), 1, resources))
images, before = noisy_images(size=84), resident()
list(updates(config, images, 1, resources))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
print(estimate_memory(config, (images, images), resources).total)
"""
    measured, needed = in_a_process(code, order, engine)
    assert 0.67 <= needed / measured <= most


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_memory_is_flat_over_a_thousand_updates(engine):
    """From update 100 to 1,000 the process grows by less than 4 MB: a leak of a single gradient would be 24 MB."""
    code = """
config = TrainConfig(filters=16, ways=3, queries=3, meta_batch=2, inner_steps=2, order="second")
sizes = list(updates(config, noisy_images(), 1000, Resources(engine=sys.argv[1])))
print(sizes[99], sizes[999])
"""
    early, late = in_a_process(code, engine)
    assert late - early < 4e6
