"""Meta-training from a model in place of random parameters: bundled, a run, saved, or an encoder from elsewhere."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from classifier_kit import SIZE, grey_images, write_folder
from metacontrast import FewShotClassifier, load_dataset, load_run
from metacontrast.classifier.starting_point import load_model, load_starting_point
from metacontrast.cli.main import run as command
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError
from metacontrast.training import sources
from metacontrast.training.config import TrainConfig, with_fields
from metacontrast.training.libraries import Built, Features
from metacontrast.training.start import as_start_sees, with_start
from metacontrast.training.train_run import initial_state, load_images, train_config
from metacontrast.types import to_named

FORM = ImageFormat(3, SIZE, "bicubic", mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3), crop=0.9)
SMALL = {"ways": 2, "shots": 1, "queries": 2, "meta_batch": 2, "updates": 2, "eval_every": 0, "eval_episodes": 2}
SMALL |= {"eval_split": "all"}
FLAGS = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]


class Own(nn.BatchNorm2d):
    """A batch norm of a library's own kind, which cannot take a task's statistics."""

    def forward(self, x):
        return super().forward(x).relu()


def network() -> nn.Sequential:
    """A small network with running averages and a frozen layer."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), Own(6), nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8))
    net.append(nn.AdaptiveAvgPool2d(1))
    net[0].requires_grad_(False)
    for norm in (net[1], net[3]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture
def library(monkeypatch):
    """A stand-in for timm with one small network; without its weights it is another one."""

    def build(name: str, trained: bool) -> Built:
        net = network()
        if not trained:
            for tensor in net.state_dict().values():
                tensor.fill_(1)
        return Built(Features(net), FORM)

    monkeypatch.setitem(sources._BUILDERS, "timm", build)
    sources._kept.cache_clear()
    yield "timm:small"
    sources._kept.cache_clear()


@pytest.fixture
def folder(tmp_path):
    images, labels = grey_images(classes=4)
    coloured = np.stack([images, 255 - images, images], -1)
    return write_folder(tmp_path / "images", coloured, labels)


def train(folder, start: str, out, *more: str) -> int:
    return command(["train", "--dataset", f"folder:{folder}", "--start", start, *FLAGS, "--out", str(out), *more])


@pytest.mark.parametrize("scope", ["head", "all"])
def test_an_encoder_from_elsewhere_is_meta_trained(scope, library, folder, tmp_path):
    """Guards the head alone (ANIL) and the whole net: the start is the source's own weights, training moves them, the
    run needs the source's weights no more, and serves `fit` and `evaluate` like any other.
    """
    out = tmp_path / "run"
    assert train(folder, library, out, "--inner-scope", scope, "--augment", "flip,crop,colour") == 0
    found = load_run(out)
    own = network().state_dict()
    assert (found.config.encoder, found.config.norm, found.config.inner_scope) == ("start", "running", scope)
    assert (found.config.inner_steps, found.config.inner_lr) == (20, 0.3)
    assert (found.image_shape, found.mean, found.std) == ((3, SIZE, SIZE), FORM.mean, FORM.std)
    whole = found.model.encoder.state_dict()
    for name in ("0.weight", "1.running_mean", "3.running_var"):
        assert torch.equal(whole[f"body.{name}"], own[name]), name
    assert not any(name.startswith("body.0") for name in found.params.encoder)
    change = (found.params.encoder["body.2.weight"] - own["2.weight"]).abs().max()
    assert 0 < change < 1e-3  # two steps of Adam of 1e-4
    classifier = FewShotClassifier(out).fit(folder)
    assert classifier.state_.start.images == ImageFormat(3, SIZE, "bicubic", mean=FORM.mean, std=FORM.std)
    assert (classifier.support_.features is None) == (scope == "all")
    classifier.save(tmp_path / "classifier")
    again = FewShotClassifier.load(tmp_path / "classifier")
    np.testing.assert_array_equal(again.predict_proba(folder), classifier.predict_proba(folder))
    classifier.save_pretrained(tmp_path / "saved")
    assert torch.equal(
        load_model(tmp_path / "saved").params.encoder["body.2.weight"], found.params.encoder["body.2.weight"]
    )
    assert command(["evaluate", str(out), "--split", "all", "--episodes", "2"]) == 0


def test_training_goes_on_where_it_stopped(library, folder, tmp_path):
    """Guards `--resume`, with the start's flag and without: the same bits as in one go."""
    assert train(folder, library, tmp_path / "whole", "--updates", "4") == 0
    assert train(folder, library, tmp_path / "parts", "--checkpoint-every", "1") == 0
    assert train(folder, library, tmp_path / "parts", "--resume", "--updates", "3") == 0
    assert command(["train", "--resume", "--updates", "4", "--out", str(tmp_path / "parts")]) == 0
    one, other = (load_run(tmp_path / name).params.encoder for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_start_is_read_anew(library, folder, tmp_path):
    """Guards that what is kept in memory is not taken for a file that has changed."""
    file, found = tmp_path / "w.safetensors", []
    for time, factor in enumerate((0.5, 0.25)):
        save_file({name: factor * t for name, t in network().state_dict().items()}, file)
        os.utime(file, (time, time))
        found.append(sources.starting_encoder(library, str(file), True).encoder.body[2].weight)
    assert torch.equal(found[0], 2 * found[1])
    assert sources.starting_encoder(library, str(file), True).encoder.body[2].weight is found[1]


def test_a_run_that_started_elsewhere_is_gone_on_with(library, folder, tmp_path, capsys):
    assert train(folder, library, tmp_path / "run") == 0
    assert train(folder, str(tmp_path / "run"), tmp_path / "other") == 2
    assert "started from timm:small: go on with it by --resume" in capsys.readouterr().err


def test_another_start_is_told_on_resuming(library, folder, tmp_path, capsys):
    assert train(folder, library, tmp_path / "run") == 0
    header = tmp_path / "run" / "config.json"
    facts = json.loads(header.read_text())
    facts["data"][library] = "0" * 64
    header.write_text(json.dumps(facts))
    capsys.readouterr()
    assert train(folder, library, tmp_path / "run", "--resume", "--updates", "3") == 2
    assert "the digest of timm:small was 000000000000" in capsys.readouterr().err


@pytest.mark.parametrize("start", ["cifar-fs-conv4", "a run"])
def test_a_model_that_was_trained_here_is_a_start(start, folder, tmp_path):
    """Guards parameters, image format and how it adapts, of bundled models and of runs."""
    first = tmp_path / "first"
    if start == "a run":
        small = ["--encoder", "conv4", "--filters", "4", "--image-size", "16", "--inner-lr", "0.05"]
        words = ["train", "--dataset", f"folder:{folder}", *FLAGS, *small, "--out", str(first)]
        assert command(words) == 0
        start = str(first)
    trained = load_run(sources.find_model(start))
    config = with_start(TrainConfig(dataset=f"folder:{folder}", **SMALL), start, given=("ways", "shots"))
    assert (config.encoder, config.filters) == (trained.config.encoder, trained.config.filters)
    assert (config.inner_lr, config.inner_scope) == (trained.config.inner_lr, trained.config.inner_scope)
    images = load_images(config)[0]
    assert (images.shape, images.mean, images.std) == (trained.image_shape, trained.mean, trained.std)
    state = initial_state(config, config.model(images.shape), "cpu")
    for name, tensor in trained.params.encoder.items():
        assert torch.equal(state.params.encoder[name], tensor)
    moved = train_config(config, tmp_path / "out").params.encoder
    assert any(not torch.equal(moved[name], tensor) for name, tensor in trained.params.encoder.items())
    assert torch.equal(load_run(sources.find_model(start)).params.head.weight, trained.params.head.weight)


def test_a_learned_head_of_the_same_size_is_part_of_the_start(folder, tmp_path):
    base = {"encoder": "conv4", "filters": 4, "image_size": 16, "head": "learned", "dataset": f"folder:{folder}"}
    trained = train_config(TrainConfig(**base, **SMALL), tmp_path / "first")
    for ways, is_same in ((2, True), (3, False)):
        config = with_start(TrainConfig(**base, **SMALL | {"ways": ways}), str(tmp_path / "first"))
        head = initial_state(config, config.model((3, 16, 16)), "cpu").params.head
        assert (head.weight.shape == trained.params.head.weight.shape) == is_same
        assert not is_same or torch.equal(head.weight, trained.params.head.weight)


@pytest.mark.parametrize("first", ["maml", "supcon"])
@pytest.mark.parametrize("method", ["maml", "cosine", "ridge", "reptile"])
def test_a_model_of_another_method_is_a_start(first, method, folder, tmp_path):
    """Its encoder and its batch statistics; how it adapts is the method's own."""
    base = replace(TrainConfig(encoder="conv4", filters=4, image_size=16, dataset=f"folder:{folder}"), **SMALL)
    trained = train_config(with_fields(base, method=first, norm="inductive"), tmp_path / "first")
    config = with_start(with_fields(base, method=method), str(tmp_path / "first"))
    assert config.norm == "inductive"
    own = with_fields(base, method=method)
    assert (config.head, config.inner_steps) == (own.head, own.inner_steps)
    state = initial_state(config, config.model((3, 16, 16)), "cpu", 4)
    for one, other in zip(trained.params.encoder.values(), state.params.encoder.values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", ["meta-sgd", "maml++", "ridge", "cosine", "supervised"])
def test_a_start_of_the_same_method_brings_all_that_it_learned(method, folder, tmp_path):
    """But for a classifier of the training classes, which may be others."""
    base = replace(TrainConfig(encoder="conv4", filters=4, image_size=16, dataset=f"folder:{folder}"), **SMALL)
    base = with_fields(base, method=method, outer_lr=0.1)
    trained = train_config(base, tmp_path / "first").params
    config = with_start(base, str(tmp_path / "first"))
    found = initial_state(config, config.model((3, 16, 16)), "cpu", 4).params
    drawn = initial_state(base, base.model((3, 16, 16)), "cpu", 4).params
    assert trained.rates or trained.extra
    for name, tensor in to_named(found).items():
        expected = drawn if name == "extra.classifier.weight" else trained
        assert torch.equal(tensor, to_named(expected)[name])
    if trained.rates:
        other = replace(config, inner_lr=0.7)
        rates = initial_state(other, other.model((3, 16, 16)), "cpu", 4).params.rates
        assert all((t == 0.7).all() for t in rates.values())


def test_norms_of_every_step_start_as_those_of_the_start(folder, tmp_path):
    base = replace(TrainConfig(encoder="conv4", filters=4, image_size=16, dataset=f"folder:{folder}"), **SMALL)
    trained = train_config(with_fields(base, method="protonet", outer_lr=0.1), tmp_path / "first").params
    config = with_start(with_fields(base, method="maml++", inner_steps=2), str(tmp_path / "first"))
    found = initial_state(config, config.model((3, 16, 16)), "cpu").params
    assert found.step_norms
    for name, tensor in found.step_norms.items():
        assert (trained.encoder[name] - 1).abs().max() > 1e-3 or "bias" in name
        assert torch.equal(tensor, trained.encoder[name].expand(2, -1))


@pytest.mark.parametrize("inside", [True, False])
def test_a_saved_encoder_from_elsewhere_is_a_start(inside, library, folder, tmp_path):
    start = load_starting_point(library)
    FewShotClassifier(start).save_pretrained(tmp_path / "saved", weights_inside=inside)
    config = with_start(TrainConfig(dataset=f"folder:{folder}", **SMALL), str(tmp_path / "saved"))
    assert (config.start, config.weights is not None) == (library, inside)
    found = initial_state(config, config.model((3, SIZE, SIZE)), "cpu").params.encoder
    assert torch.equal(found["body.2.weight"], network()[2].weight)


def test_weights_of_a_file_are_the_start(library, folder, tmp_path):
    save_file({name: 0.5 * t for name, t in network().state_dict().items()}, tmp_path / "w.safetensors")
    assert train(folder, library, tmp_path / "run", "--weights", str(tmp_path / "w.safetensors")) == 0
    moved = load_run(tmp_path / "run").params.encoder["body.2.weight"]
    torch.testing.assert_close(moved, 0.5 * network()[2].weight, atol=1e-3, rtol=0)


def test_an_undivided_folder_of_photographs_is_meta_trained_on(tmp_path, capsys):
    """Guards the flag that the message names, the recipe of photo folders, and that evaluation sees new classes."""
    images, labels = grey_images(classes=10, per_class=4)
    folder = write_folder(tmp_path / "photos", np.stack([images, 255 - images, images], -1), labels)
    small = [*FLAGS[: FLAGS.index("--eval-split")], "--filters", "4", "--image-size", "16"]
    words = ["train", "--dataset", f"folder:{folder}", *small, "--out", str(tmp_path / "run")]
    assert command(words) == 2
    assert "divide them by a seed (--split-seed 0)" in capsys.readouterr().err
    assert command([*words, "--split-seed", "0"]) == 0
    config = load_run(tmp_path / "run").config
    assert (config.inner_scope, config.order, config.norm) == ("head", "second", "inductive")
    capsys.readouterr()
    images = load_dataset(f"folder:{folder}", "test", options=config.read_options())
    assert len(images.classes) == 2
    for again in ([], ["--dataset", f"folder:{folder}/"], ["--dataset", f"folder:{folder}/../photos"]):
        assert command(["evaluate", str(tmp_path / "run"), *again, "--episodes", "2", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["data_digest"] == images.digest
    assert not set(images.classes) & set(load_images(config)[0].classes)


def test_grey_images_are_shown_in_colour(library, tmp_path):
    folder = write_folder(tmp_path / "grey", *grey_images())
    assert train(folder, library, tmp_path / "run") == 0
    assert load_run(tmp_path / "run").image_shape == (3, SIZE, SIZE)
    assert command(["evaluate", str(tmp_path / "run"), "--split", "all", "--episodes", "2"]) == 0


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--start", "no-such-model"], "no-such-model is not a run directory, nor a model"),
        (["--start", "python:math:pi"], "code of your own"),
        (["--start", "timm:"], "names no encoder"),
        (["--start", "timm:small", "--image-size", "32"], "--image-size 32, but timm:small brings --image-size 16"),
        (["--start", "timm:small", "--encoder", "mlp"], "--encoder mlp, but timm:small brings --encoder start"),
        (["--start", "timm:small", "--filters", "8"], "--filters 8, but timm:small has none"),
        (["--start", "timm:small", "--norm", "inductive"], "use --norm running"),
        (["--start", "timm:small", "--weights", "none.safetensors"], "not a readable file of safetensors"),
        (["--start", "omniglot-conv4"], "has coloured images"),
        (["--start", "omniglot-conv4", "--weights", "w.safetensors"], "weights are for an encoder"),
        (["--weights", "w.safetensors"], "weights are for an encoder"),
        (["--encoder", "start"], "names no encoder from elsewhere"),
        (["--norm", "running", "--encoder", "conv4"], "of the encoder keeps no averages"),
    ],
)
def test_starts_that_cannot_be(words, part, library, folder, tmp_path, capsys):
    out = tmp_path / "run"
    assert command(["train", "--dataset", f"folder:{folder}", *FLAGS, "--out", str(out), *words]) == 2
    *notes, line = capsys.readouterr().err.splitlines()
    assert part in line
    assert all(note.startswith("note: 4 classes are trained on and tested on") for note in notes)
    assert not (out / "model.safetensors").exists()


def test_images_that_a_start_does_not_take(library, folder):
    """Guards a configuration that was not made with `with_start`."""
    config = TrainConfig(dataset=f"folder:{folder}", start=library, encoder="start", image_size=8, **SMALL)
    with pytest.raises(InputError, match="make the configuration with with_start"):
        load_images(config)
    assert (
        as_start_sees(TrainConfig(), images := load_images(TrainConfig(dataset=f"folder:{folder}", **SMALL))[0])
        is images
    )
    other = TrainConfig(dataset=f"folder:{folder}", start="cifar-fs-conv4", encoder="mlp", **SMALL)
    with pytest.raises(InputError, match="another encoder"):
        initial_state(other, other.model((3, 32, 32)), "cpu")
