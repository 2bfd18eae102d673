"""Everything that `train` promises holds for every method: resuming, threads, processes, memory, records, use."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from classifier_kit import grey_images, write_folder
from metacontrast import FewShotClassifier
from metacontrast.cli.main import run as command
from metacontrast.errors import InputError
from metacontrast.maml.engine import split
from metacontrast.memory import peak_bytes
from metacontrast.methods import METHODS
from metacontrast.report.findings import explain_run, findings_text, setting
from metacontrast.training import memory
from metacontrast.training.config import TrainConfig, config_from_values, with_fields
from metacontrast.training.memory import estimate_memory
from metacontrast.training.records import read_records
from metacontrast.training.run import load_run
from metacontrast.training.step import ONE_CPU, Resources
from metacontrast.training.train import threads
from metacontrast.training.train_run import gradient_of, initial_state, outer_step
from metacontrast.types import Episode, map_params, to_tensors
from small_run import IMAGES, SMALL, content, train_small

EVERY = pytest.mark.parametrize("method", METHODS)


def config_of(method: str, **fields) -> TrainConfig:
    return with_fields(replace(SMALL, queries=3, meta_batch=2, inner_steps=2), method=method, **fields)


def state_of(config: TrainConfig):
    model = config.model(IMAGES[0].shape)
    return model, initial_state(config, model, "cpu", len(IMAGES[0]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A run of every method."""
    folder = tmp_path_factory.mktemp("methods")
    for method in METHODS:
        train_small(folder / method, config_of(method))
    return folder


@EVERY
def test_a_run_that_was_stopped_goes_on_bit_for_bit(method, runs, tmp_path):
    """State, records and kept copies; what a method learns moves."""
    config = config_of(method)
    train_small(tmp_path / "run", config, stop_after=1)
    train_small(tmp_path / "run", config, resume=True)
    assert content(tmp_path / "run") == content(runs / method)
    assert load_run(runs / method).updates == 3


@EVERY
def test_threads_and_processes_change_nothing_but_time(method):
    """The same bits with two threads; to rounding the mean of what two processes find in their shares."""
    config = config_of(method, meta_batch=3)
    model, state = state_of(config)
    batch = config.training_tasks(IMAGES[0]).batch(range(3))
    with threads(2) as executor:
        found = [
            gradient_of(config, each)(model, state.params, batch, config.inner())
            for each in (ONE_CPU, Resources(executor=executor, workers=2))
        ]
    (one, seen), (two, also) = found
    assert all(torch.equal(a, b) for a, b in zip(to_tensors(one), to_tensors(two), strict=True))
    assert torch.equal(seen.loss, also.loss)
    params = map_params(torch.Tensor.double, state.params)
    double = Episode(batch.support_x.double(), batch.support_y, batch.query_x.double(), batch.query_y)
    of = gradient_of(config, ONE_CPU)
    whole = of(model, params, double, config.inner())[0]
    parts = [(len(part.query_y), of(model, params, part, config.inner())[0]) for part in split(double, 2)]
    for total, *each in zip(to_tensors(whole), *(to_tensors(part) for _, part in parts), strict=True):
        mean = sum(count * part for (count, _), part in zip(parts, each, strict=True)) / 3
        assert torch.allclose(mean, total, rtol=1e-10, atol=1e-13)


@EVERY
def test_the_memory_of_an_update_is_estimated(method, monkeypatch):
    monkeypatch.setattr(memory, "_BESIDE_TENSORS", {"loop": 1, "vmap": 1})
    config = config_of(method, meta_batch=4, filters=16)

    def run() -> None:
        model, state = state_of(config)
        outer_step(config, model)(state, config.training_tasks(IMAGES[0]).batch(range(4)))

    counted = peak_bytes(run)
    assert counted <= estimate_memory(config, IMAGES, ONE_CPU).total <= 1.6 * counted


@EVERY
def test_records_say_how_training_goes(method, runs):
    records = read_records(runs / method / "records.jsonl")
    training = [each for each in records if each["kind"] == "training"]
    assert [each["update"] for each in training] == [1, 2, 3]
    assert all(each["loss"] == each["loss"] and 0 <= each["accuracy"] <= 1 for each in training)
    assert {each["update"] for each in records if each["kind"] == "evaluation"} == {2, 3}
    assert config_from_values(records[0]["config"], "records") == config_of(method)


@EVERY
def test_a_model_is_evaluated_on_the_command_line(method, runs, tmp_path, capsys):
    write_folder(tmp_path / "images", *grey_images())
    words = ["--dataset", f"folder:{tmp_path / 'images'}", "--episodes", "3", "--steps", "0,2", "--ways", "2,3"]
    heads = ["--head", "zeroed"] if load_run(runs / method).config.head in ("learned", "zeroed") else []
    if method == "meta-sgd":
        assert command(["evaluate", str(runs / method), *words, *heads]) == 2
        assert "learned for a head of 2 classes, not 3" in capsys.readouterr().err
        words[-1] = "2"
    assert command(["evaluate", str(runs / method), *words, *heads, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert {(row["method"], row["steps"]) for row in found} >= {("maml", 0), ("maml", 2), ("nearest-mean", 0)}


@EVERY
def test_a_model_is_explained_or_refused_in_one_line(method, runs):
    """A head that is built from the support set and answers at once leaves nothing unexplained."""
    run = load_run(runs / method)
    if not METHODS[method].explains:
        with pytest.raises(InputError, match="the theory is that of one"):
            explain_run(run, [], run.config.test_tasks(IMAGES[1]), 2)
        return
    found = explain_run(run, [], run.config.test_tasks(IMAGES[1]), 2)
    assert findings_text(found)
    assert setting(found)
    if run.config.inner_steps == 0:
        assert found.explanation.distance < 1e-4
        assert found.explanation.parts["interference"].norm == 0


@EVERY
def test_a_model_classifies_images_of_other_classes(method, runs):
    """Three classes, where the training had two; rates that are learned for the rows of a head fit no other number."""
    images, labels = grey_images()
    classifier = FewShotClassifier(str(runs / method), folds=0)
    if method == "meta-sgd":
        with pytest.raises(InputError, match="learned for a head of 2 classes, not 3"):
            classifier.fit(images[::2], labels[::2])
        return
    classifier.fit(images[::2], labels[::2])
    probabilities = classifier.predict_proba(images[1::2])
    assert torch.isfinite(torch.as_tensor(probabilities)).all()
