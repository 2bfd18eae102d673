"""Every enumerated option is checked where it enters; a misspelled one never runs another experiment."""

import contextlib
import dataclasses
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import metacontrast as mc
from feature_tasks import make_case
from metacontrast import theory
from metacontrast.classifier.candidates import Plan, make_plan
from metacontrast.classifier.export import export
from metacontrast.cli.main import run as command
from metacontrast.data.augment import Augmentation
from metacontrast.data.catalog import FOLDER, DatasetSpec
from metacontrast.data.decode import ReadOptions, decode
from metacontrast.data.episodes import EpisodeSampler
from metacontrast.data.image_format import ImageFormat
from metacontrast.device import find_device
from metacontrast.errors import InputError, check_choice, did_you_mean
from metacontrast.experiments.claims import Accuracy, Claim, Comparison, Endpoint, Number, Solved
from metacontrast.experiments.figures import FIGURES, find_figures
from metacontrast.experiments.setting import MeasurementPlan, Setting, choose_setting
from metacontrast.experiments.spec import AuthorsTest, FigureSpec, MeasuredCurve
from metacontrast.fields import as_declared
from metacontrast.maml.engine import Engine
from metacontrast.methods import Method
from metacontrast.model.encoders import build_encoder, conv4
from metacontrast.plots.curves import Look
from metacontrast.training.config import TrainConfig, config_from_values
from metacontrast.training.evaluate import Evaluation
from metacontrast.training.recipes import recipe
from metacontrast.training.run import TrainedRun
from metacontrast.training.step import Resources
from metacontrast.types import Inner
from toy_images import noisy_images, numbered_images


def tasks(**options: Any) -> mc.EpisodeSampler:
    return mc.EpisodeSampler(numbered_images([3] * 4), 3, 1, 2, **options)


def model(**options: Any) -> mc.Model:
    return mc.Model(nn.Flatten(), 3, feature_size=4, **options)


def comparison(**options: Any) -> Comparison:
    return Comparison("a", "b", (), (), **options)


def train_config(**options: Any) -> TrainConfig:
    """With one word of those fields that hold several."""
    return TrainConfig(**{name: (value,) if name == "augment" else value for name, value in options.items()})


OPTIONS: dict[type, Callable[..., Any]] = {
    Augmentation: lambda names="flip": Augmentation((names,)),
    Accuracy: lambda head="kept": Accuracy(head, 1),
    Claim: lambda speaks="end": Claim("a", (), "b", speaks),
    Comparison: comparison,
    DatasetSpec: lambda **options: dataclasses.replace(FOLDER, **options),
    Endpoint: lambda **options: Endpoint("a", Number("b"), **options),
    Engine: Engine,
    Evaluation: Evaluation,
    AuthorsTest: lambda **options: dataclasses.replace(FIGURES["steps-at-test"].authors_test, **options),
    MeasuredCurve: lambda head="kept": MeasuredCurve(head, Look("red", "o")),
    FigureSpec: lambda **options: dataclasses.replace(FIGURES["inner-steps"], **options),
    ImageFormat: lambda **options: ImageFormat(1, 28, **options),
    mc.EpisodeSampler: tasks,
    mc.Inner: mc.Inner,
    mc.Model: model,
    Method: lambda **options: Method("a", **options),
    Plan: lambda **options: Plan(mc.Inner(), **options),
    ReadOptions: ReadOptions,
    Resources: Resources,
    MeasurementPlan: lambda **options: MeasurementPlan((1,), **options),
    Setting: Setting,
    Solved: lambda solver="ridge": Solved(solver),
    TrainConfig: train_config,
}
"""Dataclasses that hold options, and how one is made."""

RESULTS = (
    *("classifier.cross_validation.Score", "experiments.speed_ups.SpeedUp", "experiments.verdicts."),
    *("classifier.candidates.Candidate", "classifier.starting_point.StartingPoint", "play.session.Settings"),
)
"""What is measured rather than asked for, or made of options that were checked before."""


CALLS: dict[Callable[..., Any], Callable[..., Any]] = {
    build_encoder: lambda name="mlp": build_encoder(name, (1, 8, 8)),
    choose_setting: lambda scale="smoke", protocol="paper": choose_setting(scale, protocol, None),
    conv4: lambda **options: conv4(1, 28, filters=2, **options),
    decode: lambda **options: decode(torch.zeros(4, 4, dtype=torch.uint8).numpy(), 4, **options),
    mc.Model.with_head: lambda head="zeroed": model().with_head(head),
    mc.Model.with_norm: lambda norm="inductive": model().with_norm(norm),
    theory.build_task: lambda head="ridge": theory.build_task(*make_case(0).task[:4], head, ways=5),
    theory.split_built_gradient: lambda head="ridge": theory.split_built_gradient(*make_case(0).task[:4], head, ways=5),
}
"""Functions that take options themselves, and how they are called."""

INSIDE = {
    "classifier.": "checked by `make_plan`, and where an image format or a starting point is made",
    "data.decode.decoder": "the options are those of ReadOptions or ImageFormat",
    "data.folder.": "checked by the classifier and the command line",
    "classifier.export.export": "checked below, where there is a fitted classifier",
    "data.decode.gather": "the options are those of ReadOptions or ImageFormat",
    "data.published.": "the options are those of ReadOptions",
    "experiments.": "the words stand in the figures' own specifications",
    "maml.inner.": "the options are those of Inner",
    "maml.engine.a": "the options are those of Engine",
    "maml.engine.mean_task_gradient": "the options are those of Engine",
    "model.head.": "the options are those of Model",
    "model.solvers.": "the options are those of Evaluation",
    "model.normalization.prepare": "the options are those of Model",
}
"""Functions that are handed options which were checked before."""


def choices_of(hint: Any) -> tuple[str, ...]:
    """The words that a type allows, wherever in it they stand."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return tuple(word for part in typing.get_args(hint) for word in choices_of(part))


def modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(mc.__path__, "metacontrast."):
        if not found.name.endswith("__main__"):
            with contextlib.suppress(ModuleNotFoundError):  # extras
                yield importlib.import_module(found.name)


def enumerated(thing: Any) -> dict[str, tuple[str, ...]]:
    """Fields or arguments of a fixed choice, with their words."""
    try:
        hints = typing.get_type_hints(thing)
    except NameError:  # names that only a type checker imports
        return {}
    return {name: words for name, hint in hints.items() if name != "return" and (words := choices_of(hint))}


def own_name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}".removeprefix("metacontrast.")


def defined(kind: Callable[[Any], bool]) -> list[Any]:
    """Public classes or functions of the package that have an enumerated field or argument."""
    found = []
    for module in modules():
        own = [each for each in vars(module).values() if getattr(each, "__module__", None) == module.__name__]
        methods = [each for owner in own if inspect.isclass(owner) for each in vars(owner).values()]
        found += [each for each in [*own, *methods] if kind(each) and "._" not in own_name(each) and enumerated(each)]
    return [each for each in found if not each.__name__.startswith("_")]


def is_dataclass(thing: Any) -> bool:
    return inspect.isclass(thing) and dataclasses.is_dataclass(thing)


DATACLASSES = [c for c in defined(is_dataclass) if not own_name(c).startswith(RESULTS)]
FUNCTIONS = [f for f in defined(inspect.isfunction) if not own_name(f).startswith(tuple(INSIDE))]


def makers() -> dict[str, tuple[Callable[..., Any], Any]]:
    known: dict[Any, Callable[..., Any]] = {**OPTIONS, **CALLS}
    return {own_name(each): (known[each], each) for each in [*DATACLASSES, *FUNCTIONS] if each in known}


ENUMERATED = [
    pytest.param(make, name, words, id=f"{where}-{name}")
    for where, (make, thing) in makers().items()
    for name, words in enumerated(thing).items()
]


@pytest.fixture(autouse=True)
def untyped():
    """Types of arguments are checked under test only; a user meets the library without them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_all_that_take_an_enumerated_option_are_tested_here():
    """So that a new one is not forgotten: put it into OPTIONS or CALLS, or say why it is none."""
    assert {own_name(each) for each in [*DATACLASSES, *FUNCTIONS]} == set(makers())
    assert len(ENUMERATED) > 40


def misspelled(word: str) -> Iterator[str]:
    """As people err: another case, a letter left out, doubled, swapped or added, another separator."""
    yield from (word.title(), word.upper(), word + "s", f" {word}", word[1:], word[:-1], word[0] + word)
    yield word[1:2] + word[0] + word[2:]
    yield word.replace("-", "_") if "-" in word else word.replace("_", "-") if "_" in word else word + "-"


@pytest.mark.parametrize(("make", "name", "words"), ENUMERATED)
def test_every_misspelling_of_every_choice_is_refused_in_one_line(make, name, words):
    """Issue: "every enumerated value is checked where it enters, with the nearest name suggested"."""
    for wrong in {each for word in words for each in misspelled(word)} - set(words):
        value = (wrong,) if name in ("heads", "solvers") else wrong
        with pytest.raises(InputError, match="is not one of") as error:
            make(**{name: value})
        assert repr(wrong) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("make", "name", "words"), ENUMERATED)
@pytest.mark.parametrize(
    "wrong", [2, True, 1.0, "", b"head", ["first"], F.mse_loss, torch.zeros(2)], ids=lambda wrong: type(wrong).__name__
)
def test_a_choice_of_another_type_is_refused(make, name, words, wrong):
    """`order=2` was first order. A function is a loss where one is taken, and the mean square error nowhere."""
    if callable(wrong) and name in ("loss", "query_loss"):
        assert make(**{name: wrong}).outer_loss is wrong
        return
    with pytest.raises(InputError, match=r"is not one of|is not a tuple"):
        make(**{name: wrong})


@pytest.mark.parametrize(
    ("make", "suggested"),
    {
        "order": (lambda: mc.Inner(order="Second"), "order='Second' is not one of 'first', 'second'; .*'second'"),
        "order 2": (lambda: mc.Inner(order=2), "order=2 is not one of 'first', 'second'$"),
        "loss": (lambda: mc.Inner(loss="crossentropy"), "did you mean 'cross_entropy'"),
        "callable": (lambda: TrainConfig(inner_loss=F.cross_entropy), "loss=<function cross_entropy .*'cross_entropy'"),
        "head": (lambda: model(head="zero"), "did you mean 'zeroed'"),
        "norm": (lambda: model(norm="Inductive"), "did you mean 'inductive'"),
        "engine": (lambda: Engine("loops"), "did you mean 'loop'"),
        "config": (lambda: TrainConfig(head="zero", order="Second"), "did you mean 'zeroed'"),
        "labels": (lambda: tasks(labels="bounded"), "did you mean 'bound'"),
        "dataset": (lambda: mc.load_dataset("omniglott"), "did you mean 'omniglot'"),
        "split": (lambda: mc.load_dataset("glyphs", split="Test"), "did you mean 'test'"),
        "recipe": (lambda: recipe("omniglot-5w1s-release"), "did you mean 'omniglot-5w1s-released'"),
        "figure": (lambda: find_figures("inner_steps"), "did you mean 'inner-steps'"),
        "model": (lambda: mc.FewShotClassifier("omniglot_conv4").fit("x"), "did you mean 'omniglot-conv4'"),
        "scope": (lambda: mc.FewShotClassifier(scope="heads").fit("x"), "did you mean 'head'"),
        "baseline": (lambda: mc.FewShotClassifier(baseline="prototypes").fit("x"), "did you mean 'prototype'"),
        "device": (lambda: find_device("Cuda"), "did you mean 'cuda'"),
        "form": (lambda: inspect.unwrap(export)(None, Path("x"), "Onnx"), "did you mean 'onnx'"),
    }.values(),
)
def test_the_nearest_name_is_suggested(make, suggested):
    """The issue's own examples, and one for every kind of name."""
    with pytest.raises(InputError, match=suggested):
        make()


@pytest.mark.parametrize(
    ("words", "suggested"),
    [
        ("train --out {} --order Second", "'second'"),
        ("train --out {} --resample bicubc", "'bicubic'"),
        ("train --out {} --vary haed=zeroed", "'head'"),
        ("train --out {} --vary head=zerod", "'zeroed'"),
        ("train --out {} --recipe glyph", "'glyphs'"),
        ("train --out {} --engine loops", "'loop'"),
        ("evaluate {} --norm Inductive", "'inductive'"),
        ("figure inner-step", "'inner-steps'"),
        ("figure all --scale smoky", "'smoke'"),
        ("fit {} --model omniglot-conv --out {}", "'omniglot-conv4'"),
        ("data get omniglt", "'omniglot'"),
        ("trian", "'train'"),
    ],
)
def test_the_command_line_suggests_the_nearest_name(words, suggested, tmp_path, capsys):
    try:
        status = command(words.format(tmp_path, tmp_path).split())
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2
    assert f"did you mean {suggested}?" in error
    assert error.count("\n") == 1


WRONG_KINDS: dict[str, Callable[[], Any]] = {
    "steps=1.5 is not a whole number": lambda: mc.Inner(steps=1.5),
    "steps=True is not a whole number": lambda: mc.Inner(steps=True),
    "steps=-1, but it must be 0 or more": lambda: mc.Inner(steps=-1),
    "lr='0.1' is not a number": lambda: mc.Inner(lr="0.1"),
    "lr=inf, but it must be above 0 and finite": lambda: mc.Inner(lr=float("inf")),
    "lr=nan, but it must be above 0 and finite": lambda: mc.Inner(lr=float("nan")),
    "head_bias='no' is not True or False": lambda: model(head_bias="no"),
    "ways='5' is not a whole number": lambda: dataclasses.replace(model(), ways="5"),
    "chunk=2.0 is not a whole number": lambda: Engine("vmap", chunk=2.0),
    "shots=1.0 is not a whole number": lambda: dataclasses.replace(tasks(), shots=1.0),
    "relabel='false' is not True or False": lambda: tasks(relabel="false"),
    "invert=1 is not True or False": lambda: ReadOptions(invert=1),
    "drop_noise=None is not True or False": lambda: TrainConfig(drop_noise=None),
    "eval_steps=3 is not a tuple": lambda: TrainConfig(eval_steps=3),
    "eval_steps=1.5 is not a whole number": lambda: TrainConfig(eval_steps=[1, 1.5]),
    "inner_lr=1000.* is not a number": lambda: TrainConfig(inner_lr=10**400),
    "dataset=None is not text": lambda: TrainConfig(dataset=None),
    "skip_unreadable='no' is not True or False": lambda: mc.FewShotClassifier(skip_unreadable="no").fit(
        [torch.zeros(1, 28, 28)], ["a"]
    ),
}


@pytest.mark.parametrize("message", WRONG_KINDS)
def test_a_number_or_switch_of_another_kind_is_refused(message):
    """`head_bias="no"` is true to Python, and `steps=True` is 1."""
    with pytest.raises(InputError, match=message):
        WRONG_KINDS[message]()


def test_near_kin_are_stored_as_declared():
    """So that two spellings of one configuration are one run: its digest is over the written values."""
    written = TrainConfig(inner_lr=1, ways=np.int64(5), eval_steps=[1, np.int32(3)], outer_lr=np.float64(0.01))
    plain = TrainConfig(inner_lr=1.0, ways=5, eval_steps=(1, 3), outer_lr=0.01)
    assert written == plain
    assert written.digest() == plain.digest()
    assert [type(each) for each in written.eval_steps] == [int, int]


@pytest.mark.parametrize("wrong", [{"head": "zero"}, {"ways": 1}, {"eval_steps": [1, "2"]}, {"inner_lr": True}])
def test_a_configuration_file_is_named_with_what_is_wrong_in_it(wrong):
    with pytest.raises(
        InputError,
        match=f"^config.json holds a configuration that cannot be used, correct or remove it: {next(iter(wrong))}=",
    ) as error:
        config_from_values(dataclasses.asdict(TrainConfig()) | wrong, "config.json")
    assert "\n" not in str(error.value)


WORDS = sorted({word for each in ENUMERATED for word in each.values[2]})


@given(st.sampled_from(WORDS), st.data())
def test_one_slip_in_a_word_still_finds_it(word, data):
    """A property of the suggestion: one letter dropped, doubled or replaced, and any case, names a near word."""
    assume(len(word) > 4)
    at = data.draw(st.integers(0, len(word) - 1))
    letter = data.draw(st.sampled_from(["", word[at] * 2, "x"]))
    slip = data.draw(st.sampled_from([str.lower, str.upper, str.title]))(word[:at] + letter + word[at + 1 :])
    assert did_you_mean(slip, [word, "quite-another-thing"]) == f"did you mean {word!r}? "


@given(st.text() | st.integers() | st.floats() | st.none() | st.lists(st.text()) | st.binary())
def test_no_value_but_the_words_passes(value):
    if value in ("first", "second"):
        return check_choice("order", value, ("first", "second"))
    with pytest.raises(InputError, match="order="):
        check_choice("order", value, ("first", "second"))
    return None


def test_parts_of_a_union_are_tried_in_turn():
    """A field that also takes a function or a tensor says so in its type."""
    loss = Literal["cross_entropy"] | Callable[..., torch.Tensor]
    assert as_declared("loss", F.mse_loss, loss) is F.mse_loss
    rate = torch.tensor(0.1)
    assert as_declared("lr", rate, float | torch.Tensor) is rate
    assert as_declared("scope", None, Literal["all"] | None) is None
    with pytest.raises(InputError, match="loss='crossentropy' is not one of"):
        as_declared("loss", "crossentropy", loss)
    with pytest.raises(InputError, match="scope='al' is not one of 'all'; did you mean 'all'"):
        as_declared("scope", "al", Literal["all"] | None)


def test_plans_refuse_what_they_do_not_know():
    given = {"steps": None, "lr": None, "scope": None, "baseline": None, "folds": 5, "reject": None}
    with pytest.raises(InputError, match="scope='encoder' is not one of 'head', 'all'"):
        make_plan(mc.Inner(), **given | {"scope": "encoder"})


def test_values_print_in_a_line():
    """A notebook shows what a value is, not its 12,000 characters of pixels and weights."""
    images = noisy_images(seed=0)
    sampler = EpisodeSampler(images, 3, 1, 2)
    config = TrainConfig(filters=8, ways=3)
    model = config.model(images.shape)
    params = model.init(torch.Generator())
    run = TrainedRun(config, model, params, 5, images.shape, (0.0,), (1.0,))
    for value in (images, sampler, sampler[0], sampler.batch([0, 1]), model, params, Inner(), run):
        assert len(repr(value)) < 300, repr(value)
        assert "\n" not in repr(value)
