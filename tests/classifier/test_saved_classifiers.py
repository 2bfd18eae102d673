"""A saved classifier: its values are checked, and whoever reads while others save finds a whole one."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import classification_report, confusion_matrix

from classifier_kit import grey_images, tiny_model_folder, tiny_run, tiny_start
from failing_disk import Killed, die, fail_once, no_more_than, watched
from metacontrast import FewShotClassifier, Inner
from metacontrast.classifier.starting_point import from_run, load_model, load_starting_point, save_starting_point
from metacontrast.cli.main import run
from metacontrast.errors import InputError
from metacontrast.training import checkpoint

IMAGES, LABELS = grey_images()


@pytest.fixture(scope="module")
def fitted() -> FewShotClassifier:
    return FewShotClassifier(tiny_start(), reject=0.2).fit(IMAGES, LABELS)


def rewrite(folder: Path, change, change_tensors=lambda tensors: None) -> None:
    """Edit a saved classifier as one who also mends the digests."""
    facts = json.loads((folder / "config.json").read_text())
    change(facts)
    text = json.dumps(facts)
    (folder / "config.json").write_text(text)
    tensors = checkpoint.load(folder / "model.safetensors").tensors
    change_tensors(tensors)
    digest = hashlib.sha256(text.encode()).hexdigest()
    checkpoint.save(folder / "model.safetensors", checkpoint.Stored(tensors, {"config": digest}))


def put(value, *keys):
    def change(facts):
        for key in keys[:-1]:
            facts = facts[key]
        facts[keys[-1]] = value

    return change


EDITS = {
    "temperature as text": (put("hot", "temperature"), "temperature is 'hot'"),
    "temperature 0": (put(0, "temperature"), "temperature is 0"),
    "temperature below 0": (put(-1.0, "temperature"), "temperature is -1.0"),
    "temperature NaN": (put(float("nan"), "temperature"), "temperature is nan"),
    "temperature infinite": (put(float("inf"), "temperature"), "temperature is inf"),
    "temperature true": (put(True, "temperature"), "temperature is True"),
    "temperature missing": (lambda facts: facts.pop("temperature"), "has no temperature"),
    "threshold as text": (put("low", "threshold"), "threshold is 'low'"),
    "threshold NaN": (put(float("nan"), "threshold"), "threshold is nan"),
    "classes twice": (put(["class0", "class0", "class2"], "classes"), "classes is"),
    "classes null": (put(["class0", None, "class2"], "classes"), "classes is"),
    "classes as objects": (put([{}, {"a": 1}, 3], "classes"), "classes is"),
    "classes that are equal numbers": (put([1, True, 2], "classes"), "classes is"),
    "one class": (put(["class0"], "classes"), "classes is"),
    "a class too few": (put(["class0", "class1"], "classes"), "support images are not those"),
    "a class too many": (put(["a", "b", "c", "d"], "classes"), "counts is"),
    "other counts": (put([4, 6, 5], "counts"), "counts is [4, 6, 5]"),
    "a name too few": (lambda facts: facts["support"].pop(), "support images are not those"),
    "names as numbers": (put(list(range(15)), "support"), "support is"),
    "a billion steps": (put(10**9, "adaptation", "steps"), "adaptation.steps is 1000000000"),
    "a billion steps of the model": (put(10**9, "model", "adaptation", "steps"), "model.adaptation.steps is"),
    "a billion steps of the plan": (put(10**9, "plan", "inner", "steps"), "plan.inner.steps is"),
    "a billion steps to come": (put(10**9, "parameters", "steps"), "parameters: steps=1000000000"),
    "half a step": (put(0.5, "adaptation", "steps"), "adaptation.steps is 0.5"),
    "a step size below 0": (put(-0.1, "adaptation", "lr"), "adaptation.lr is -0.1"),
    "a scope of another kind": (put("body", "plan", "inner", "scope"), "plan.inner.scope is 'body'"),
    "a loss of another kind": (put("hinge", "model", "adaptation", "loss"), "model.adaptation.loss is 'hinge'"),
    "one fold": (put(1, "plan", "folds"), "plan.folds is 1"),
    "all refused": (put(1.5, "plan", "reject"), "plan.reject is 1.5"),
    "two channels": (put(2, "images", "channels"), "images.channels is 2"),
    "an enormous image": (put(10**9, "images", "size"), "images.size is 1000000000"),
    "an unknown filter": (put("soft", "images", "resample"), "images.resample is 'soft'"),
    "no deviation": (put([0.0], "images", "std"), "images.std is [0.0]"),
    "an unknown parameter": (put(1, "parameters", "colour"), "parameters: "),
    "a limit of no pixels": (put(0, "parameters", "max_pixels"), "parameters: max_pixels=0"),
    "a score above 1": (put(7, "compare", 0, "accuracy"), "compare.*.accuracy is 7"),
    "scores as text": (put("none", "compare"), "compare.*"),
    "tensors elsewhere": (put("../model.safetensors", "tensors"), "names tensors '../model.safetensors'"),
    "tensors as a number": (put(3, "tensors"), "names tensors 3"),
    "no model": (lambda facts: facts.pop("model"), "has no model"),
    "a list of facts": (put([], "images"), "has no images.channels"),
}


@pytest.mark.parametrize("what", EDITS)
def test_edited_values_are_refused_in_one_line(what, fitted, tmp_path, capsys):
    """Guards: values are validated, not only digests: no traceback, no NaN, no endless loop."""
    change, part = EDITS[what]
    fitted.save(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        FewShotClassifier.load(tmp_path)
    assert part in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert run(["predict", str(tmp_path), str(tmp_path / "x.png")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("support.y", lambda t: t + 3),
        ("support.y", lambda t: t - 1),
        ("support.y", lambda t: t[:-1]),
        ("support.images", lambda t: t.float()),
        ("support.images", lambda t: t[:, :, :-1]),
        ("network.weight", lambda t: t * float("nan")),
        ("network.means", lambda t: t[:-1]),
    ],
)
def test_edited_tensors_are_refused_in_one_line(name, change, fitted, tmp_path):
    """Guards: the same of the tensors."""
    fitted.save(tmp_path)
    rewrite(tmp_path, lambda facts: None, lambda tensors: tensors.update({name: change(tensors[name]).contiguous()}))
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        FewShotClassifier.load(tmp_path)


def test_an_untouched_rewrite_loads(fitted, tmp_path):
    """Guards the other side: the edits above are refused for what they change."""
    fitted.save(tmp_path)
    rewrite(tmp_path, lambda facts: None)
    assert FewShotClassifier.load(tmp_path).temperature_ == fitted.temperature_


@pytest.mark.parametrize(("name", "value"), [("steps", 10**9), ("steps", "x"), ("lr", 0), ("scope", 1), ("loss", None)])
def test_edited_models_are_refused_in_one_line(name, value, tmp_path):
    """Guards: how a saved model adapts is validated too; nothing but its text protects it."""
    tiny_model_folder(tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text())
    facts["adaptation"][name] = value
    (tmp_path / "config.json").write_text(json.dumps(facts))
    for read in (FewShotClassifier.from_pretrained, load_model):
        with pytest.raises(InputError, match=rf"^[^\n]*: {name} is {value!r}, but it must be [^\n]+$"):
            read(tmp_path)


def test_a_classifier_of_the_first_format_loads_and_is_replaced(fitted, tmp_path):
    """Guards: folders that were written before keep loading."""
    fitted.save(tmp_path)

    def as_before(facts):
        facts["format_version"] = 1
        del facts["tensors"], facts["parameters"]["reject_label"]

    rewrite(tmp_path, as_before)
    old = FewShotClassifier.load(tmp_path)
    np.testing.assert_array_equal(old.predict_proba(IMAGES), fitted.predict_proba(IMAGES))
    old.save(tmp_path)
    assert sorted(file.name for file in tmp_path.glob("[!.]*")) == ["config.json", "model-1.safetensors"]
    assert FewShotClassifier.load(tmp_path).temperature_ == fitted.temperature_


def test_a_save_that_fails_leaves_the_old_classifier(fitted, tmp_path):
    """Guards: a full disk in the middle of a save costs nothing that was there, and leaves nothing behind."""
    fitted.save(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for size in (10, 3_000, 2 * len(before[tmp_path / "config.json"])):
        with no_more_than(size), pytest.raises(InputError, match="free some space"):
            fitted.save(tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


SAVE_OFTEN = """
import sys
from pathlib import Path
from metacontrast import FewShotClassifier

classifier = FewShotClassifier.load(sys.argv[1])
print("ready", flush=True)
while not Path(sys.argv[3]).exists():
    classifier.save(sys.argv[2])
"""


def test_whoever_loads_while_two_save_finds_a_whole_classifier(fitted, tmp_path):
    """Guards: two processes save into one folder while a third loads; 93 of 150 loads failed."""
    other = clone(fitted).set_params(steps=7).fit(IMAGES, LABELS)
    for name, classifier in (("one", fitted), ("two", other)):
        classifier.save(tmp_path / name)
    shared, stop = tmp_path / "shared", tmp_path / "stop"
    fitted.save(shared)
    answers = [c.predict_proba(IMAGES).tobytes() for c in (fitted, other)]
    assert answers[0] != answers[1]
    words = [sys.executable, "-c", SAVE_OFTEN]
    writers = [
        subprocess.Popen([*words, str(tmp_path / name), str(shared), str(stop)], stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    try:
        assert [writer.stdout and writer.stdout.readline() for writer in writers] == ["ready\n"] * 2
        found = [FewShotClassifier.load(shared).predict_proba(IMAGES).tobytes() for _ in range(20)]
    finally:
        stop.touch()
        for writer in writers:
            writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert set(found) <= set(answers)
    FewShotClassifier.load(shared)
    assert len(list(shared.glob("model*.safetensors"))) == 1


LABELLINGS = {
    "text": (lambda c: f"class{c}", "unknown", "U"),
    "numbers": (lambda c: c, -1, "i"),
    "NumPy's numbers": (lambda c: c, np.int64(-1), "i"),
    "halves": (lambda c: c / 2, -1.0, "f"),
    "tuples": (lambda c: ("left", c), "unknown", "O"),
}


@pytest.mark.parametrize("kind", LABELLINGS)
def test_refused_images_can_have_a_label_of_their_own(kind, tmp_path):
    """Guards: None among labels of another type breaks scikit-learn's reports; `reject_label` is saved and loaded."""
    name, refused, dtype = LABELLINGS[kind]
    y = [name(int(label[-1])) for label in LABELS]
    classifier = FewShotClassifier(tiny_start(), reject=0.3, reject_label=refused).fit(IMAGES, y)
    others = grey_images(classes=12, seed=3)[0]
    classifier.save(tmp_path)
    for each in (classifier, FewShotClassifier.load(tmp_path)):
        found, mask = each.predict(others), each.is_rejected(others)
        assert found.dtype.kind == dtype
        assert 0 < mask.sum() < len(mask)
        assert [label == refused for label in found.tolist()] == mask.tolist()
    assert clone(classifier).reject_label == refused


def test_a_label_for_refused_images_fits_scikit_learns_reports():
    """Guards: with `reject_label` reports and confusion tables count refusals as one more answer."""
    classifier = FewShotClassifier(tiny_start(), reject=0.3, reject_label="unknown").fit(IMAGES, LABELS)
    others = grey_images(classes=12, seed=3)[0]
    images, y = np.concatenate([IMAGES, others]), [*LABELS, *["unknown"] * len(others)]
    guesses, refused = classifier.predict(images), classifier.is_rejected(images)
    assert "unknown" in classification_report(y, guesses, zero_division=0)
    assert confusion_matrix(y, guesses, labels=[*classifier.classes_, "unknown"])[:, -1].sum() == refused.sum()
    assert classifier.score(images, y) == np.mean(guesses == np.array(y))


def test_without_a_label_refused_images_are_none(fitted):
    """Guards the default: it is what it was."""
    found = fitted.predict(grey_images(classes=12, seed=3)[0])
    assert found.dtype == object
    assert None in found.tolist()


def test_a_number_of_torch_is_a_label_for_refused_images():
    classifier = FewShotClassifier(tiny_start(), reject=0.3, reject_label=torch.tensor(-1))
    found = classifier.fit(IMAGES, [int(label[-1]) for label in LABELS]).predict(grey_images(classes=12, seed=3)[0])
    assert -1 in found.tolist()


def test_a_starting_point_saved_over_another_is_one_of_the_two_or_refused(tmp_path):
    """Guards: the weights of one with the step size of the other, wherever the process dies or the disk is full."""
    folder = tiny_model_folder(tmp_path / "start")
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    other = dataclasses.replace(tiny_run(3), updates=99)
    new = dataclasses.replace(from_run("other", other), inner=Inner(steps=2, lr=0.3))
    operations: list[int] = []
    with watched(operations.append):
        save_starting_point(new, folder)
    outcomes = set()
    for number in operations:
        for fault in (die(number), fail_once(number, errno.ENOSPC)):
            shutil.rmtree(folder)
            shutil.copytree(old, folder)
            with contextlib.suppress(Killed, InputError, OSError), fault:
                save_starting_point(new, folder)
            try:
                found = load_starting_point(folder)
                outcomes.add((found.run.updates, found.images.channels, found.inner.steps))
            except InputError as error:
                outcomes.add(str(error).removeprefix(f"{folder}/config.json "))
    refusal = "describes another model than model.safetensors beside it: restore both from one copy"
    assert {(7, 1, 1), (99, 3, 2)} <= outcomes <= {(7, 1, 1), (99, 3, 2), refusal}


@pytest.mark.parametrize("changed", [{"reject_label": "class0"}, {"steps": -1}, {"max_pixels": 0}])
def test_parameters_that_no_file_may_hold_are_refused_before_anything_is_written(changed, tmp_path):
    classifier = FewShotClassifier(tiny_start()).fit(*grey_images()).set_params(**changed)
    with pytest.raises(InputError):
        classifier.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_starting_point_saved_with_other_steps_has_no_temperature_that_was_measured(tmp_path):
    """The temperature of adapted heads was measured with the model's own inner steps."""
    own = FewShotClassifier("omniglot-conv4")
    own.save_pretrained(tmp_path / "own")
    FewShotClassifier("omniglot-conv4", steps=1, lr=0.02).save_pretrained(tmp_path / "other")
    measured, plain = (load_starting_point(tmp_path / name).temperatures["adapted"] for name in ("own", "other"))
    assert measured != 1
    assert plain == 1


def test_what_was_left_out_at_the_fit_is_unknown_after_loading(fitted, tmp_path):
    fitted.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path)
    assert (loaded.ignored_, loaded.models_) == ((), ())
