"""Everything that `train` promises holds for every method: resuming, threads, processes, memory, records, use."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from classifier_kit import grey_images, write_folder
from metacontrast import FewShotClassifier
from metacontrast.cli.main import run as command
from metacontrast.data.episodes import EpisodeSampler
from metacontrast.device import peak_bytes
from metacontrast.errors import InputError
from metacontrast.maml.engine import split
from metacontrast.maml.inner import adapt
from metacontrast.maml.outer import accuracies, loss_gradient
from metacontrast.methods import METHODS, Method, conml, contrastive, imaml, reptile, supcon, supervised
from metacontrast.methods.batches import base_classifier
from metacontrast.model.head import zero_head
from metacontrast.model.model import Model
from metacontrast.report.findings import explain_run, findings_text, setting
from metacontrast.training import memory
from metacontrast.training.config import TrainConfig, config_from_values, with_fields
from metacontrast.training.evaluate import Evaluation, evaluate_tasks
from metacontrast.training.memory import estimate_memory
from metacontrast.training.records import read_records
from metacontrast.training.run import load_run
from metacontrast.training.step import ONE_CPU, Resources
from metacontrast.training.train import threads, train
from metacontrast.training.train_run import gradient_of, initial_state, outer_step
from metacontrast.types import Episode, Inner, map_params, to_tensors
from small_run import IMAGES, SMALL, content, train_small

EVERY = pytest.mark.parametrize("method", METHODS)


def config_of(method: str, **fields) -> TrainConfig:
    steps = {} if "inner_steps" in METHODS[method].needs else {"inner_steps": 2}
    return with_fields(replace(SMALL, queries=3, meta_batch=2), method=method, **(steps | fields))


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
    at_once = METHODS[method].tasks_at_once
    config = config_of(method, meta_batch=3 * at_once)
    model, state = state_of(config)
    batch = config.training_tasks(IMAGES[0]).batch(range(3 * at_once))
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
    parts = [(len(part.query_y), of(model, params, part, config.inner())[0]) for part in split(double, 2 * at_once)]
    for total, *each in zip(to_tensors(whole), *(to_tensors(part) for _, part in parts), strict=True):
        mean = sum(count * part for (count, _), part in zip(parts, each, strict=True)) / (3 * at_once)
        assert torch.allclose(mean, total, rtol=1e-10, atol=1e-13)


@EVERY
def test_the_memory_of_an_update_is_estimated(method, monkeypatch):
    monkeypatch.setattr(memory, "_BESIDE_TENSORS", {"loop": 1, "vmap": 1})
    config = config_of(method, meta_batch=4, filters=64)
    model = config.model(IMAGES[0].shape)

    def run() -> None:
        state = initial_state(config, model, "cpu", len(IMAGES[0]))
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
    assert {(row["method"], row["steps"]) for row in found} >= {(method, 0), (method, 2), ("nearest-mean", 0)}


@EVERY
@pytest.mark.parametrize("zeroed", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_an_evaluation_adapts_as_the_method_says(method, steps, zeroed, in_float64):
    """Task by task, from the head as it was trained, or from one of zeros where the method can start from zeros."""
    config = config_of(method)
    if config.inner_steps:
        few = 2 if method == "reptile" and zeroed else 1
        config = replace(config, inner_steps=few, head="zeroed" if zeroed else config.head)
    model, state = state_of(config)
    noise = torch.Generator().manual_seed(0)
    params = map_params(lambda t: t + 0.1 * torch.rand(t.shape, generator=noise, dtype=t.dtype), state.params)
    params = zero_head(params) if config.head == "zeroed" else params
    tasks = config.test_tasks(IMAGES[1])
    found = evaluate_tasks(model, params, tasks, config.inner(), Evaluation((steps,), ("kept",), 3))[:, 0]
    for number, accuracy in enumerate(found):
        x, y, asked, wanted = tasks[number]
        adapted = adapt(model, params, x, y, config.inner().at_test(steps))
        guesses = model.query_logits(adapted, x, asked).argmax(1)
        assert accuracy == (guesses == wanted).double().mean()


@EVERY
def test_an_update_moves_the_encoder_of_every_recipe(method):
    """Also where the recipe's inner loop moves only the head, as that of photographs."""
    for recipe in (SMALL, replace(SMALL, inner_scope="head", inner_steps=2)):
        config = with_fields(replace(recipe, queries=3, meta_batch=2), method=method)
        model, state = state_of(config)
        before = [t.clone() for t in state.params.encoder.values()]
        outer_step(config, model)(state, config.training_tasks(IMAGES[0]).batch(range(2)))
        assert any(not torch.equal(a, b) for a, b in zip(before, state.params.encoder.values(), strict=True))


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


# Names, and methods of one's own


def test_methods_bring_their_fields_and_keep_what_was_given():
    """Fields that were given stay as they are whatever the method is."""
    base = TrainConfig(inner_steps=2, eval_steps=(1, 2))
    heads = {name: with_fields(base, method=name).head for name in METHODS}
    assert (heads["maml"], heads["maml++"], heads["ridge"]) == ("zeroed", "learned", "ridge")
    given = {"head": "zeroed", "outer_lr": 0.5}
    found = [with_fields(base, method=name, **given) for name in ("reptile", "maml++")]
    assert {(config.head, config.outer_lr) for config in found} == {("zeroed", 0.5)}
    with pytest.raises(InputError, match="method=ridge cannot have head=zeroed: add --head ridge"):
        with_fields(base, method="ridge", **given)


def test_a_grid_of_methods_is_trained_by_one_command(tmp_path, capsys):
    words = ["--filters", "2", "--queries", "2", "--meta-batch", "2", "--updates", "2", "--workers", "1"]
    words += ["--eval-every", "0", "--eval-episodes", "2", "--out", str(tmp_path)]
    assert command(["train", "--recipe", "glyphs", *words, "--vary", "method=protonet,supcon"]) == 0
    capsys.readouterr()
    assert {load_run(folder / "seed-0").config.method for folder in tmp_path.glob("method=*")} == {"protonet", "supcon"}
    assert command(["train", "--recipe", "glyphs", "--method", "protonets", "--out", str(tmp_path / "x")]) == 2
    assert "did you mean 'protonet'?" in capsys.readouterr().err


def test_the_older_name_still_works(tmp_path, capsys):
    """`--objective`, and run directories whose configuration has it."""
    words = ["train", "--recipe", "glyphs", "--filters", "2", "--queries", "2", "--meta-batch", "2", "--updates", "1"]
    words += ["--eval-episodes", "2", "--workers", "1", "--out", str(tmp_path / "run")]
    assert command([*words, "--objective", "contrastive"]) == 0
    values = asdict(load_run(tmp_path / "run").config)
    values["objective"] = values.pop("method")
    assert config_from_values(values, "config.json") == load_run(tmp_path / "run").config
    older = {"objective": "maml"} | {name: value for name, value in values.items() if name != "objective"}
    assert config_from_values(older | {"inner_scope": "all"}, "config.json").method == "maml"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "protonet", "head": "zeroed"}, "method=protonet cannot have head=zeroed: add --head prototype"),
        ({"method": "ridge", "inner_steps": 1}, "method=ridge cannot have inner_steps=1: add --inner-steps 0"),
        ({"method": "supcon", "relabel": True}, "method=supcon cannot have relabel=True: add --no-relabel"),
        ({"method": "supervised", "pool_size": 3}, "cannot have pool_size=3: add --pool-size none"),
        ({"method": "maml", "penalty": 1.0}, "penalty=1.0 is an option of the method imaml: add --method imaml"),
        ({"method": "imaml", "penalty": 0.0}, "penalty=0.0, but it must be above 0 and finite"),
        ({"method": "imaml", "inner_lr": 1.0}, "inner steps of size 1 under penalty=2 overshoot their start"),
        ({"method": "imaml", "cg_steps": 0}, "cg_steps=0, but it must be 1 or more"),
        ({"method": "imaml", "inner_scope": "head"}, "cannot have inner_scope=head: add --inner-scope all"),
        ({"method": "maml++", "inner_scope": "head"}, "cannot have inner_scope=head: add --inner-scope all"),
        ({"method": "maml++", "explain_every": 2}, "the theory does not speak: leave out explain_every=2"),
        ({"method": "reptile", "head": "shared"}, "cannot have head=shared: add --head learned or zeroed"),
        (
            {"method": "reptile", "inner_scope": "head"},
            "cannot have inner_scope=head: add --inner-scope all or encoder",
        ),
        (
            {"method": "reptile", "head": "zeroed", "inner_steps": 1},
            "reptile with head=zeroed and inner_steps=1 learns nothing",
        ),
        ({"method": "reptiles"}, "did you mean 'reptile'"),
        ({"method": "conml", "meta_batch": 3}, "takes 2 tasks at once, and meta_batch=3 is not a multiple of 2"),
        ({"method": "conml", "order": "first"}, "cannot have order=first: add --order second"),
        ({"method": "conml", "contrast_weight": 0.0}, "contrast_weight=0.0, but it must be above 0 and finite"),
        *(
            ({"method": name, "inner_steps": 0}, "cannot have inner_steps=0: add --inner-steps 1")
            for name in ("meta-sgd", "maml++", "reptile", "imaml", "conml")
        ),
        ({"method": "contrastive", "inner_loss": "mean_square_error"}, "add --inner-loss cross_entropy"),
    ],
)
def test_what_a_method_cannot_have_is_refused_in_one_line(fields, message):
    with pytest.raises(InputError, match=message) as error:
        with_fields(TrainConfig(inner_steps=2), **fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("head", "inner", "message"),
    [
        ("learned", Inner(2, scope="head"), "scope='head' keeps the encoder as it is"),
        ("zeroed", Inner(1), "the first step from a zero head keeps the encoder as it is"),
        ("zeroed", Inner(2, scope="encoder"), "scope='encoder' leaves the rows of a zeroed head alike"),
    ],
)
def test_reptile_refuses_an_inner_loop_that_leaves_the_encoder(head, inner, message):
    model = Model(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), 2, 4, head=head)
    with pytest.raises(InputError, match=message):
        train(model, EpisodeSampler(IMAGES[0], 2, 1, 1), inner, updates=1, gradient=reptile)


SOME = {head: Model(nn.Flatten(), 2, IMAGES[0].shape[1] ** 2, head=head) for head in ("learned", "prototype", "cosine")}


@pytest.mark.parametrize(
    ("gradient", "head", "inner", "message"),
    [
        (reptile, "prototype", Inner(2), "reptile needs a model with head=learned or zeroed, not prototype"),
        (reptile, "learned", Inner(0), "reptile needs an inner loop of 1 step or more, not 0"),
        (imaml, "cosine", Inner(2), "imaml needs a model with head=learned or zeroed, not cosine"),
        (imaml, "learned", Inner(2, scope="head"), "imaml adapts encoder and head, but inner has scope='head'"),
        (partial(imaml, penalty=0.0), "learned", Inner(2), "penalty=0.0, but it must be above 0 and finite"),
        (partial(imaml, cg_steps=0), "learned", Inner(2), "cg_steps=0, but it must be 1 or more"),
        (reptile, "learned", Inner(2, direction=lambda *given: given), "reptile takes plain gradient descent"),
        (imaml, "learned", Inner(2, loss_weights=(0.5, 0.5)), "imaml takes plain gradient descent"),
        (contrastive, "learned", Inner(1), "stands for an inner loop of the head, not scope='all': use scope='head'"),
        (conml, "learned", Inner(1, order="second"), "conml compares tasks, but was given one"),
        (conml, "learned", Inner(1), "conml has no gradient beyond MAML's in first order: use order='second'"),
        (contrastive, "prototype", Inner(1), "contrastive needs a model with head=learned or zeroed"),
        (supcon, "learned", Inner(1), "supcon needs a model with head=cosine, not learned"),
        (supervised, "learned", Inner(1), "supervised needs a model with head=prototype or cosine"),
        (supervised, "prototype", Inner(1), "supervised needs a classifier of the training classes"),
    ],
)
def test_a_model_or_inner_loop_that_a_gradient_is_not_for_is_refused_in_one_line(gradient, head, inner, message):
    with pytest.raises(InputError, match=message) as error:
        train(SOME[head], SMALL.test_tasks(IMAGES[0]), inner, updates=1, gradient=gradient)
    assert "\n" not in str(error.value)


def test_batches_without_what_a_method_compares_are_refused():
    """Classes that the classifier lacks; no two images of a class."""
    x, y = torch.rand(2, *IMAGES[0].shape), torch.tensor([0, 5])
    batch = Episode(x[:0], y[:0], x, y)
    model = SOME["prototype"]
    params = base_classifier(model, model.init(torch.Generator()), torch.Generator(), classes=4)
    with pytest.raises(InputError, match="the classifier is of 4 classes, and a label is 5"):
        supervised(model, params, batch, Inner())
    with pytest.raises(InputError, match="no class has two images in a batch"):
        supcon(SOME["cosine"], SOME["cosine"].init(torch.Generator()), batch, Inner())


def test_a_training_that_depends_on_its_length_is_not_made_longer(tmp_path):
    """MAML++ anneals, whatever the schedule of its outer learning rate."""
    config = config_of("maml++", lr_schedule="constant")
    train_small(tmp_path / "run", config)
    with pytest.raises(InputError, match="holds a run with updates=3, not 4"):
        train_small(tmp_path / "run", replace(config, updates=4), resume=True)
    with pytest.raises(InputError, match="compile each time: use --engine loop or vmap"):
        Resources(engine="compiled-loop").engine_of(config)


def test_a_method_of_ones_own_is_a_function_and_a_line(tmp_path, monkeypatch):
    """Joint training on the support sets: registered, it is trained, resumed and evaluated like the others."""

    def support_loss(model, params, episode, inner):
        """The gradient of the loss on the support set, without any adaptation."""

        def loss(params):
            outputs = model.logits(params, episode.support_x)
            return F.cross_entropy(outputs, episode.support_y), accuracies(outputs, episode.support_y)

        return loss_gradient(params, loss)

    monkeypatch.setitem(
        METHODS, "toy", Method("one class after the other", needs={"head": ("learned",)}, gradient=support_loss)
    )
    config = config_of("toy")
    assert config.head == "learned"
    train_small(tmp_path / "whole", config)
    train_small(tmp_path / "run", config, stop_after=1)
    train_small(tmp_path / "run", config, resume=True)
    assert content(tmp_path / "run") == content(tmp_path / "whole")
    tasks = config.test_tasks(IMAGES[1])
    params = train(load_run(tmp_path / "run").model, tasks, Inner(1, 0.1), updates=2, gradient=support_loss)
    assert all(torch.isfinite(t).all() for t in to_tensors(params))
