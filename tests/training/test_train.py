"""The training loop: the algorithm's outer half, zeroing, records, exact resuming."""

import dataclasses
import json

import pytest
import torch

import reference
from metacontrast.errors import InputError
from metacontrast.training import checkpoint
from metacontrast.training.config import TrainConfig
from metacontrast.training.records import read_records
from metacontrast.training.run import load_run, open_run
from metacontrast.training.train_run import initial_state, outer_step, train_run
from metacontrast.types import Episode, Params, map_params, to_tensors
from toy_images import noisy_images

TRAIN, TEST = noisy_images(seed=0), noisy_images(seed=1)
SMALL = TrainConfig(
    filters=8,
    ways=3,
    queries=3,
    meta_batch=2,
    updates=6,
    eval_every=3,
    eval_episodes=4,
    checkpoint_every=2,
    inner_steps=2,
)


def run_training(path, config=SMALL, *, resume=False, stop_after=None):
    seen = []
    with open_run(path, config, (TRAIN, TEST), "cpu", resume=resume) as run:
        status = train_run(
            config,
            run,
            TRAIN,
            TEST,
            on_record=seen.append,
            should_stop=lambda: stop_after is not None and seen[-1]["update"] >= stop_after,
        )
    return status, seen


def final_tensors(path):
    return checkpoint.load(path / "state.safetensors").tensors


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize("head", ["learned", "zeroed"])
def test_an_update_is_the_references_with_plain_gradient_descent(head):
    """Algorithm 1, and Algorithm 3 with zeroing at start and after the update, in float64 to 1e-12."""
    config = dataclasses.replace(SMALL, head=head, optimizer="sgd", outer_lr=0.1, shots=2)
    model = config.model(TRAIN.shape)
    state = initial_state(config, model, "cpu")
    state = dataclasses.replace(state, params=map_params(lambda t: t.double(), state.params))
    state.optimizer = torch.optim.SGD(to_tensors(state.params), lr=0.1)
    start = map_params(torch.clone, state.params)
    batch = config.training_tasks(TRAIN).batch(range(2))
    episodes = Episode(batch.support_x.double(), batch.support_y, batch.query_x.double(), batch.query_y)
    outer_step(config, model)(state, episodes)
    tasks = [Episode(*parts) for parts in zip(*episodes, strict=True)]
    expected = reference.outer_update(
        model.features, start, tasks, 0.1, config.inner_steps, config.inner_lr, zeroed=head == "zeroed"
    )
    for a, b in zip(to_tensors(state.params), to_tensors(expected), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
    assert bool(state.params.head.weight.any()) == (head == "learned")


@pytest.mark.parametrize("head", ["zeroed", "learned", "shared", "prototype"])
def test_the_head_is_zero_after_every_update_exactly_with_the_trick(head, tmp_path):
    """Weight and bias; the other heads keep what they learned, and the prototype head has nothing to keep."""
    config = dataclasses.replace(SMALL, head=head, updates=2)
    run_training(tmp_path / "run", config)
    weight, bias = load_run(tmp_path / "run").params.head
    assert weight.shape == {"shared": (1, 8), "prototype": (0, 8)}.get(head, (3, 8))
    assert bool(weight.any() or bias.any()) == (head in ("learned", "shared"))


def test_training_learns(tmp_path):
    """One fixed task, met again and again, is solved; not a benchmark, a sign of life."""
    config = dataclasses.replace(SMALL, updates=40, outer_lr=0.01, meta_batch=1, pool_size=1, eval_every=0)
    _, seen = run_training(tmp_path / "run", config)
    losses = [r["loss"] for r in seen if r["kind"] == "training"]
    assert losses[-1] < 0.5 * losses[0]
    assert seen[39]["accuracy"] == 1.0


def test_records_have_a_header_every_update_and_every_evaluation(tmp_path):
    run_training(tmp_path / "run")
    header, *records = read_records(tmp_path / "run" / "records.jsonl")
    assert header["kind"] == "header"
    assert header["config"]["ways"] == 3
    assert header["data"] == {TRAIN.name: TRAIN.digest, TEST.name: TEST.digest}
    assert set(header["versions"]) == {"metacontrast", "torch", "numpy", "python"}
    assert [r["update"] for r in records if r["kind"] == "training"] == [1, 2, 3, 4, 5, 6]
    evaluated = {(r["update"], r["method"], r["head"], r["steps"]) for r in records if r["kind"] == "evaluation"}
    kinds = [("maml", "kept", 1), ("maml", "zeroed", 1), ("nearest-mean", "none", 0)]
    assert evaluated == {(u, *kind) for u in (3, 6) for kind in kinds}
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert set(config) == {field.name for field in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_a_stopped_run_resumes_bit_for_bit(optimizer, tmp_path):
    """Parameters, optimizer moments and records are those of the run that was never stopped."""
    config = dataclasses.replace(SMALL, optimizer=optimizer, head="learned")
    run_training(tmp_path / "whole", config)
    status, _ = run_training(tmp_path / "parts", config, stop_after=3)
    assert status == "stopped"
    status, _ = run_training(tmp_path / "parts", config, resume=True)
    assert status == "finished"
    assert same(final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "parts"))
    whole, parts = (read_records(tmp_path / n / "records.jsonl")[1:] for n in ("whole", "parts"))
    assert whole == parts


def test_resuming_a_finished_run_does_nothing(tmp_path):
    run_training(tmp_path / "run")
    before = (tmp_path / "run" / "records.jsonl").read_bytes()
    status, seen = run_training(tmp_path / "run", resume=True)
    assert (status, seen) == ("finished", [])
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == before


def test_a_run_can_be_resumed_for_more_updates(tmp_path):
    """Twelve updates at once are six and then six more."""
    longer = dataclasses.replace(SMALL, updates=12)
    run_training(tmp_path / "once", longer)
    run_training(tmp_path / "twice")
    run_training(tmp_path / "twice", longer, resume=True)
    assert same(final_tensors(tmp_path / "once"), final_tensors(tmp_path / "twice"))


def test_a_loss_that_is_not_finite_stops_with_update_and_tasks_named(tmp_path):
    """The last good checkpoint stays, and holds finite numbers."""
    config = dataclasses.replace(SMALL, inner_lr=1e30, order="second")
    with pytest.raises(
        InputError, match=r"not finite in update 1, tasks 0 to 1: lower --inner-lr .* no checkpoint yet"
    ):
        run_training(tmp_path / "run", config)


def test_a_measurement_that_fails_ends_no_training(tmp_path, monkeypatch, caplog):
    """All failures are told, and the last one at the end, when the model is saved."""
    from metacontrast.training import train_run as module

    def failing(*arguments, **options):
        raise InputError("the model's outputs are not finite")

    config = dataclasses.replace(SMALL, eval_every=3, checkpoint_every=100, explain_every=4)
    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluate", failing)
        patch.setattr(module, "explain", failing)
        with pytest.raises(
            InputError, match=r"the evaluation after update 6 failed \(.* not finite\): the model is saved"
        ):
            run_training(tmp_path / "run", config)
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(" failed")[0] for line in told] == [
        "the evaluation after update 3",
        "the explanation after update 4",
        "the evaluation after update 6",
    ]
    assert load_run(tmp_path / "run").updates == config.updates
    run_training(tmp_path / "once", config)
    assert same(final_tensors(tmp_path / "run"), final_tensors(tmp_path / "once"))


def test_divergence_later_on_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    from metacontrast.training import train as module

    real, calls = module.meta_gradient, []

    def poisoned(*arguments, **options):
        calls.append(1)
        gradient, metrics = real(*arguments, **options)
        if len(calls) == 4:
            gradient = Params(gradient.encoder, gradient.head._replace(weight=gradient.head.weight * float("nan")))
        return gradient, metrics

    monkeypatch.setattr(module, "meta_gradient", poisoned)
    with pytest.raises(
        InputError, match=r"not finite in update 4, tasks 6 to 7: .* last good checkpoint, after update 2, is in"
    ):
        run_training(tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.updates == 2
    assert all(torch.isfinite(t).all() for t in to_tensors(run.params))


def test_what_a_run_directory_refuses(tmp_path):
    """Another configuration, other data, a second start, a second trainer: each in one line, nothing written over."""
    path = tmp_path / "run"
    run_training(path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(InputError, match="holds a run already: continue it with --resume"):
        run_training(path)
    with pytest.raises(InputError, match=r"holds a run with ways=3, not 4"):
        run_training(path, dataclasses.replace(SMALL, ways=4), resume=True)
    with pytest.raises(InputError, match=r"holds a run with updates=6, not 5"):
        run_training(path, dataclasses.replace(SMALL, updates=5), resume=True)
    other = noisy_images(seed=5)
    other = dataclasses.replace(other, name=TRAIN.name)
    with (
        pytest.raises(InputError, match="was trained on other data: the digest of noisy0 was"),
        open_run(path, SMALL, (other, TEST), "cpu", resume=True),
    ):
        pass
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    with (
        open_run(path, SMALL, (TRAIN, TEST), "cpu", resume=True),
        pytest.raises(InputError, match="another training is writing to"),
        open_run(path, SMALL, (TRAIN, TEST), "cpu", resume=True),
    ):
        pass


def test_a_run_that_goes_on_may_be_evaluated_on_another_split(tmp_path):
    """The digest of the training images is compared all the same."""
    path, validation = tmp_path / "run", noisy_images(seed=7)
    run_training(path)
    config = dataclasses.replace(SMALL, eval_split="val")
    with (
        pytest.raises(InputError, match="was trained on other data: the digest of noisy0"),
        open_run(path, config, (dataclasses.replace(validation, name=TRAIN.name), validation), "cpu", resume=True),
    ):
        pass
    with open_run(path, config, (TRAIN, validation), "cpu", resume=True):
        pass
    with (
        pytest.raises(InputError, match=r"was trained on other data: the digest of noisy7 .* missing"),
        open_run(path, config, (TRAIN, TEST), "cpu", resume=True),
    ):
        pass


def test_a_folder_with_someone_elses_records_is_not_touched(tmp_path):
    (tmp_path / "records.jsonl").write_text("mine\n")
    with pytest.raises(InputError, match=r"has a records\.jsonl but no config\.json"):
        run_training(tmp_path)
    assert (tmp_path / "records.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ways", 1, "ways=1, but it must be 2 or more"),
        ("updates", 0, "updates=0"),
        ("meta_batch", -2, "meta_batch=-2"),
        ("inner_lr", 0.0, "inner_lr=0.0, but it must be above 0 and finite"),
        ("outer_lr", float("inf"), "outer_lr=inf"),
        ("head_init_scale", -1.0, "head_init_scale=-1.0"),
        ("head_init_scale", 0.0, "head_init_scale=0.0 scales a random head, and head=zeroed starts without one"),
        ("eval_steps", (), "at least one number"),
        ("eval_steps", (-1,), "0 or more"),
        ("pool_size", 0, "pool_size=0"),
    ],
)
def test_impossible_configurations_are_refused(field, value, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**{field: value})
