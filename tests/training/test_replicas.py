"""Several seeds and variants side by side, against each one's own training."""

import contextlib
from dataclasses import replace

import pytest
import torch

from metacontrast.errors import InputError
from metacontrast.maml.engine import Engine, meta_gradient, replica_gradients
from metacontrast.maml.inner import Inner
from metacontrast.model.model import Model
from metacontrast.training import checkpoint
from metacontrast.training.config import TrainConfig
from metacontrast.training.memory import fit_to_memory
from metacontrast.training.need import need_of_update
from metacontrast.training.records import read_records
from metacontrast.training.replicas import first_replica, replica_configs
from metacontrast.training.run import load_run, open_run
from metacontrast.training.state import TrainState, store_state
from metacontrast.training.step import Resources, initial_state, update, update_replicas
from metacontrast.training.train import train, train_replicas
from metacontrast.types import Episode, Params, to_tensors
from toy_images import noisy_images

TRAIN, TEST = noisy_images(seed=0), noisy_images(seed=1)
SMALL = TrainConfig(
    encoder="conv4-released", filters=4, ways=3, queries=3, meta_batch=2, updates=4, eval_every=2, eval_episodes=3,
    checkpoint_every=2, keep_every=4, head="learned", seed=5, shots=2, inner_lr=0.02,
)  # fmt: skip
LOOP, VMAP = Resources(engine="loop"), Resources(engine="vmap")
both_engines = pytest.mark.parametrize("resources", [LOOP, VMAP], ids=["loop", "vmap"])


VARIANTS = {"head": ["learned", "zeroed"], "optimizer": ["adam", "sgd"], "labels": ["bound"]}


def train_together(out, config=SMALL, resources=LOOP, *, count=2, varied=None, resume=False, stop_after=None):
    configs, seen = replica_configs(config, count, varied), []
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(open_run(out / run, each, (TRAIN, TEST), "cpu", resume=resume))
            for run, each in configs.items()
        ]
        return train_replicas(
            list(configs.values()),
            runs,
            TRAIN,
            TEST,
            resources,
            on_record=lambda number, record: seen.append((number, record)),
            should_stop=lambda: stop_after is not None and seen[-1][1]["update"] >= stop_after,
        )


def train_alone(out, config=SMALL, resources=LOOP, *, count=2, varied=None):
    for folder, each in replica_configs(config, count, varied).items():
        with open_run(out / folder, each, (TRAIN, TEST), "cpu", resume=True) as run:
            train(each, run, TRAIN, TEST, resources)


def state_of(folder):
    return checkpoint.load(folder / "state.safetensors").tensors


def assert_same_runs(one, two, count=2, varied=None, tolerance=0.0):
    """The same files, states and records; a tolerance is for numbers in states and for losses."""
    for run in replica_configs(SMALL, count, varied):
        a, b = one / run, two / run
        assert {f.name for f in a.rglob("*")} == {f.name for f in b.rglob("*")}
        assert state_of(a).keys() == state_of(b).keys()
        for name, tensor in state_of(a).items():
            assert torch.allclose(tensor, state_of(b)[name], rtol=tolerance, atol=tolerance), name
        (_, *left), (_, *right) = (read_records(folder / "records.jsonl") for folder in (a, b))
        assert [{**r, "loss": 0} for r in left] == [{**r, "loss": 0} for r in right]
        losses = [[r["loss"] for r in rows if "loss" in r] for rows in (left, right)]
        assert losses[0] == pytest.approx(losses[1], rel=tolerance, abs=tolerance)


def test_replicas_on_the_loop_are_their_own_trainings_bit_for_bit(tmp_path):
    train_together(tmp_path / "together")
    train_alone(tmp_path / "alone")
    assert_same_runs(tmp_path / "together", tmp_path / "alone")


@pytest.mark.parametrize(
    "changed",
    [
        {"optimizer": "adam", "head": "zeroed"},
        {"optimizer": "adamw", "order": "second", "head_bias": False},
        {"optimizer": "sgd", "norm": "inductive"},
        {"optimizer": "rmsprop", "head": "shared"},
        {"inner_steps": 3, "head": "zeroed", "order": "second"},
    ],
    ids=str,
)
def test_replicas_in_one_batch_are_their_own_trainings(changed, tmp_path):
    """Parameters, moments, records and kept copies, up to the rounding of float32 sums over 4 updates."""
    config = replace(SMALL, **changed)
    train_together(tmp_path / "together", config, VMAP)
    train_alone(tmp_path / "alone", config, VMAP)
    assert_same_runs(tmp_path / "together", tmp_path / "alone", tolerance=1e-4)
    heads = [load_run(tmp_path / "together" / f"seed-{seed}").params.head for seed in (5, 6)]
    assert all(bool(head.weight.any()) == (config.head != "zeroed") for head in heads)


@pytest.mark.parametrize(("resources", "tolerance"), [(LOOP, 0.0), (VMAP, 1e-4)], ids=["loop", "vmap"])
def test_variants_are_their_own_trainings(resources, tolerance, tmp_path):
    """Heads, optimizers and tasks of their own, over one program of gradients."""
    config = replace(SMALL, updates=2)
    train_together(tmp_path / "together", config, resources, count=1, varied=VARIANTS)
    train_alone(tmp_path / "alone", config, resources, count=1, varied=VARIANTS)
    assert_same_runs(tmp_path / "together", tmp_path / "alone", count=1, varied=VARIANTS, tolerance=tolerance)
    states = [state_of(tmp_path / "together" / run) for run in replica_configs(SMALL, 1, VARIANTS)]
    weights = [state["head.weight"] for state in states]
    assert [bool(weight.any()) for weight in weights] == [True, True, False, False]
    assert not torch.equal(weights[0], weights[1])


def in_double(config: TrainConfig, model: Model) -> TrainState:
    state = initial_state(config, model, "cpu")
    for tensor in to_tensors(state.params):
        tensor.data = tensor.double()
    return state


def double_tasks(config: TrainConfig, first: int) -> Episode:
    tasks = config.training_tasks(TRAIN).batch(range(first, first + config.meta_batch))
    return tasks._replace(support_x=tasks.support_x.double(), query_x=tasks.query_x.double())


@both_engines
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_five_updates_in_double_precision_are_the_same(order, optimizer, resources):
    """Parameters and moments of three replicas, none above 1, to 1e-12; 1e-14 is what Adam makes of rounding."""
    config = replace(SMALL, order=order, optimizer=optimizer, head="zeroed")
    configs, model = list(replica_configs(config, 3).values()), config.model(TRAIN.shape)
    together, alone = ([in_double(each, model) for each in configs] for _ in range(2))
    for first in range(0, 10, 2):
        batches = [double_tasks(each, first) for each in configs]
        update_replicas(together, model, batches, configs, resources)
        for state, each, batch in zip(alone, configs, batches, strict=True):
            update(state, model, batch, each, resources)
    for one, other in zip(together, alone, strict=True):
        expected = store_state(other).tensors
        for name, tensor in store_state(one).tensors.items():
            assert torch.allclose(tensor, expected[name], rtol=0, atol=1e-12), name


@both_engines
def test_stopped_replicas_resume_bit_for_bit_together(resources, tmp_path):
    train_together(tmp_path / "whole", resources=resources)
    assert train_together(tmp_path / "parts", resources=resources, stop_after=1) == "stopped"
    assert train_together(tmp_path / "parts", resources=resources, resume=True) == "finished"
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_replica_of_a_batch_resumes_alone(tmp_path):
    train_together(tmp_path / "parts", resources=VMAP, stop_after=1)
    train_alone(tmp_path / "parts", resources=VMAP)
    train_alone(tmp_path / "alone", resources=VMAP)
    assert_same_runs(tmp_path / "parts", tmp_path / "alone", tolerance=1e-4)


@both_engines
def test_replicas_that_are_behind_go_first(resources, tmp_path):
    """One finished, one stopped halfway, one not begun: all end as if trained alone."""
    train_together(tmp_path / "parts", resources=resources, stop_after=2)
    train_alone(tmp_path / "parts", resources=resources, count=1)
    assert train_together(tmp_path / "parts", resources=resources, count=3, resume=True) == "finished"
    train_alone(tmp_path / "alone", resources=resources, count=3)
    assert_same_runs(tmp_path / "parts", tmp_path / "alone", count=3, tolerance=1e-4)


@both_engines
def test_finished_replicas_do_nothing(resources, tmp_path):
    train_together(tmp_path, resources=resources)
    before = {file: file.read_bytes() for file in tmp_path.rglob("records.jsonl")}
    assert train_together(tmp_path, resources=resources, resume=True) == "finished"
    assert before == {file: file.read_bytes() for file in before}


@both_engines
def test_a_replica_that_diverges_is_named_by_its_tasks(resources, tmp_path):
    config = replace(SMALL, inner_lr=1e30, order="second", inner_steps=2)
    with pytest.raises(InputError, match=r"not finite in update 1, tasks 0 to 1: lower --inner-lr"):
        train_together(tmp_path, config, resources)


@pytest.mark.parametrize("other", [{"inner_lr": 0.1}, {"head": "shared"}, {"updates": 5}, {"filters": 8}], ids=str)
def test_replicas_that_differ_in_their_program_are_refused(other):
    with pytest.raises(InputError, match=r"may differ in seed, head, .*outer_lr alone"):
        train_replicas([SMALL, replace(SMALL, **other)], [], TRAIN, TEST)


@pytest.mark.parametrize("chunk", [None, 1, 2, 4])
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("scope", ["all", "head"])
def test_gradients_of_replicas_are_each_ones_own(scope, order, chunk):
    """In float64 to 1e-12 of the loop's, whatever the chunk."""
    config = replace(SMALL, meta_batch=3)
    model, inner = config.model(TRAIN.shape), Inner(2, 0.1, scope, order)
    configs = list(replica_configs(config, 2).values())
    params: list[Params] = [in_double(each, model).params for each in configs]
    tasks = [double_tasks(each, 0) for each in configs]
    found = replica_gradients(model, params, tasks, inner, engine=Engine("vmap", chunk))
    for (gradient, metrics), *own in zip(found, params, tasks, strict=True):
        expected, loss_and_accuracy = meta_gradient(model, *own, inner, engine=Engine("loop"))
        for ours, theirs in zip(metrics, loss_and_accuracy, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-12)
        for a, b in zip(to_tensors(gradient), to_tensors(expected), strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12 * b.abs().max().item())


def test_a_batch_of_replicas_needs_the_memory_of_all_their_tasks():
    images = TRAIN, TEST
    one, three = (need_of_update(SMALL, images, VMAP, replicas) for replicas in (1, 3))
    assert (one.parts, three.parts) == (2, 6)
    assert three.fixed > 2 * one.fixed
    assert need_of_update(SMALL, images, LOOP, 3).parts == 1
    assert fit_to_memory(SMALL, images, replace(VMAP, memory=10**10), 3)[0].chunk == 6


def test_seeds_follow_one_another_and_the_first_run_is_the_lowest(tmp_path):
    assert [(str(run), c.seed) for run, c in replica_configs(SMALL, 3).items()] == [
        ("seed-5", 5),
        ("seed-6", 6),
        ("seed-7", 7),
    ]
    for wrong in (0, 10**12):
        with pytest.raises(InputError, match=f"replicas={wrong}, but it must be 1 to 1000"):
            replica_configs(SMALL, wrong)
    assert first_replica(tmp_path) is None
    for name in ("seed-10", "seed-9", "seed-x"):
        (tmp_path / name).mkdir()
    assert first_replica(tmp_path) == tmp_path / "seed-9"
    (tmp_path / "runs" / "seed-1").mkdir(parents=True)
    assert first_replica(tmp_path / "runs") == tmp_path / "runs" / "seed-1"
    assert first_replica(tmp_path) == tmp_path / "seed-9"


def test_variants_are_all_combinations_in_folders_of_their_own():
    found = replica_configs(SMALL, 2, {"head": ["learned", "zeroed"], "outer_lr": [0.1]})
    assert [str(run) for run in found] == [
        "head=learned,outer-lr=0.1/seed-5",
        "head=learned,outer-lr=0.1/seed-6",
        "head=zeroed,outer-lr=0.1/seed-5",
        "head=zeroed,outer-lr=0.1/seed-6",
    ]
    assert [(c.head, c.outer_lr, c.seed) for c in found.values()][1:3] == [("learned", 0.1, 6), ("zeroed", 0.1, 5)]
