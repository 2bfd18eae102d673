"""`fit`, `predict`, `export` and `evaluate` on folders of images."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from classifier_kit import grey_images, tiny_model_folder, write_folder
from metacontrast import FewShotClassifier
from metacontrast.cli.main import run


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model, a folder of classes with odd names, and a classifier fitted to it by the command."""
    root = tmp_path_factory.mktemp("a place")
    images, labels = grey_images()
    names = dict(zip(sorted(set(labels)), ["one class", "Кошки", "猫 2"], strict=True))
    write_folder(root / "my images", images, [names[label] for label in labels])
    tiny_model_folder(root / "model")
    assert run(fit_words(root, root / "classifier")) == 0
    return root


def fit_words(root: Path, out: Path, *more: str) -> list[str]:
    return ["fit", str(root / "my images"), "--model", str(root / "model"), "--out", str(out), *more]


def last_json(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])


def fails(capsys, words: list[str], *parts: str) -> None:
    try:
        status = run(words)
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert (status, out, len(err.strip().splitlines())) == (2, "", 1), err
    for part in parts:
        assert part in err


def test_fit_reports_each_way_beside_the_baseline(place, tmp_path, capsys):
    assert run(fit_words(place, tmp_path / "c", "--steps", "auto", "--baseline", "auto", "--reject", "0.2")) == 0
    out = capsys.readouterr().out
    assert "3 classes with 5 images each" in out
    assert "prototype" in out
    assert out.count("<- used") == 1
    assert "cross-validated on 15 images" in out


def test_fit_prints_json(place, tmp_path, capsys):
    assert run(fit_words(place, tmp_path / "c", "--json")) == 0
    result = last_json(capsys.readouterr().out)
    assert (result["classes"], result["images"]) == (3, 15)
    assert {row["method"] for row in result["compare"]} == {"adapted", "prototype"}


def test_a_run_directory_is_a_model_and_is_never_overwritten(place, tmp_path, capsys):
    words = ["train", "--dataset", f"folder:{place / 'my images'}", "--eval-split", "all", "--image-size", "16"]
    words += [
        "--encoder",
        "conv4",
        "--filters",
        "4",
        "--ways",
        "2",
        "--queries",
        "2",
        "--updates",
        "1",
        "--meta-batch",
        "1",
    ]
    words += ["--eval-every", "0", "--eval-episodes", "2", "--workers", "1", "--out", str(tmp_path / "run")]
    assert run(words) == 0
    capsys.readouterr()
    fit = ["fit", str(place / "my images"), "--model", str(tmp_path / "run"), "--out"]
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert run([*fit, str(tmp_path / "c"), "--lr", "0.1"]) == 0
    assert "trained with --norm transductive" in capsys.readouterr().err
    fails(capsys, [*fit, str(tmp_path / "run")], "is read by this command")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    assert run(["predict", str(tmp_path / "c"), str(place / "my images")]) == 0


def test_predict_prints_the_documented_json(place, capsys):
    folder = place / "my images"
    assert run(["predict", str(place / "classifier"), str(folder), "--json"]) == 0
    result = last_json(capsys.readouterr().out)
    assert result["unreadable"] == []
    assert len(result["predictions"]) == 15
    first = result["predictions"][0]
    assert set(first) == {"image", "label", "probability", "rejected", "probabilities"}
    assert max(first["probabilities"]) == first["probability"]
    assert len(result["classes"]) == len(first["probabilities"]) == 3
    expected = FewShotClassifier.load(place / "classifier")
    found = [(p["label"], p["probability"]) for p in result["predictions"]]
    files = [Path(p["image"]) for p in result["predictions"]]
    assert found == list(zip(expected.predict(files), expected.predict_proba(files).max(1), strict=True))


def test_predict_writes_a_table(place, capsys):
    file = next((place / "my images" / "Кошки").iterdir())
    assert run(["predict", str(place / "classifier"), str(file), str(file), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["image"] for row in rows] == [str(file)] * 2
    assert rows[0]["label"] == "Кошки"
    assert rows[0]["rejected"] == "false"


def test_broken_files_are_named_the_rest_is_answered_and_the_status_is_1(place, tmp_path, capsys):
    write_folder(tmp_path, *grey_images())
    (tmp_path / "class1" / "broken one.png").write_bytes(b"")
    words = ["predict", str(place / "classifier"), str(tmp_path), str(tmp_path / "missing.png")]
    assert run(words) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 15
    assert "broken one.png is empty" in err
    assert "missing.png" in err
    assert "2 of 17 images could not be read" in err
    assert run([*words, "--json"]) == 1
    assert len(last_json(capsys.readouterr().out)["unreadable"]) == 2


def test_predict_explains_in_words_json_and_pictures(place, tmp_path, capsys):
    file = str(next((place / "my images" / "one class").iterdir()))
    words = ["predict", str(place / "classifier"), file, "--explain"]
    assert run([*words, "--pictures", str(tmp_path / "why")]) == 0
    out = capsys.readouterr().out
    assert "rather than" in out
    assert "pulled +" in out
    assert len(list((tmp_path / "why").glob("*.png"))) == 1
    assert run([*words, "--json"]) == 0
    found = last_json(capsys.readouterr().out)["predictions"][0]["explanation"]
    assert found["exact"] is True
    assert len(found["strongest"]) == 5


def test_a_rejected_image_is_said_to_be_rejected(place, tmp_path, capsys):
    assert run(fit_words(place, tmp_path / "c", "--reject", "0.3")) == 0
    capsys.readouterr()
    folder = write_folder(tmp_path / "others", *grey_images(classes=12, seed=3))
    assert run(["predict", str(tmp_path / "c"), str(folder)]) == 0
    assert "rejected (nearest: " in capsys.readouterr().out
    assert run(["predict", str(tmp_path / "c"), str(folder), "--json"]) == 0
    found = last_json(capsys.readouterr().out)["predictions"]
    assert any(each["rejected"] for each in found)
    assert all(each["label"] for each in found)


def test_hundreds_of_images_are_answered_in_their_order(place, tmp_path, capsys):
    images, _ = grey_images(per_class=180, seed=2)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number:04d}.png")
    assert run(["predict", str(place / "classifier"), str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split("\t")[0]).stem for line in lines] == [f"{n:04d}" for n in range(540)]


def test_names_with_tabs_and_line_breaks_stay_on_their_line(place, tmp_path, capsys):
    images, _ = grey_images()
    for name in ("a\ttab.png", "two\nlines.png"):
        Image.fromarray(images[0]).save(tmp_path / name)
    (tmp_path / "broken\none.png").write_bytes(b"")
    assert run(["predict", str(place / "classifier"), str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert [len(line.split("\t")) for line in out.splitlines()] == [3, 3]
    assert r"broken\none.png is empty" in err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_standard_output_cannot_write_are_escaped(encoding, place, monkeypatch):
    """Also file names that are no text: JSON stays JSON."""
    folder = place / "my images"
    for form in ([], ["--csv"], ["--json"]):
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, "stdout", out)
        assert run(["predict", str(place / "classifier"), str(folder), *form]) == 0
        text = out.buffer.getvalue().decode(encoding)
        assert len(text.splitlines()) == {"--csv": 16, "--json": 1}.get("".join(form), 15)
    assert "Кошки" in {each["label"] for each in json.loads(text)["predictions"]}


def test_a_file_name_that_is_no_text_is_answered(place, tmp_path, monkeypatch):
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png"))
    try:
        Image.fromarray(grey_images()[0][0]).save(file)
    except OSError:
        pytest.skip("this file system takes text only")
    for form in ([], ["--csv"], ["--json"]):
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        monkeypatch.setattr(sys, "stdout", out)
        assert run(["predict", str(place / "classifier"), str(tmp_path), *form]) == 0
    assert json.loads(out.buffer.getvalue())["predictions"][0]["image"] == str(file)


def test_an_export_of_an_earlier_fit_is_pointed_out(place, tmp_path, capsys):
    assert run(fit_words(place, tmp_path / "c")) == 0
    assert run(["export", str(tmp_path / "c"), "--format", "torch"]) == 0
    capsys.readouterr()
    assert run(fit_words(place, tmp_path / "c", "--folds", "0")) == 0
    out, err = capsys.readouterr()
    assert "classifier.pt2 is from the previous classifier" in err
    assert "nothing was held out (no class has a second image, or --folds 0): probabilities are not calibrated" in out


def test_a_temperature_of_the_models_own_is_told(place, tmp_path, capsys):
    """One that was set on validation classes calibrates, without an image held out."""
    words = ["fit", str(place / "my images"), "--out", str(tmp_path / "c"), "--model", "omniglot-conv4", "--folds", "0"]
    assert run(words) == 0
    assert "nothing was held out" in (out := capsys.readouterr().out)
    assert "the temperature of probabilities is the model's own" in out


def test_a_saved_model_is_evaluated_as_it_adapts(place, capsys):
    """With the steps and the step size that `fit` would take from it."""
    words = ["evaluate", str(place / "saved"), "--dataset", f"folder:{place / 'my images'}", "--episodes", "3"]
    FewShotClassifier(place / "model", steps=7, lr=0.05, scope="head").save_pretrained(place / "saved")
    assert run([*words, "--queries", "2", "--head", "zeroed", "--json"]) == 0
    result = last_json(capsys.readouterr().out)
    assert (result["inner_lr"], {row["steps"] for row in result["results"]}) == (0.05, {7, 0})


def test_export_writes_a_file_that_runs(place, tmp_path, capsys):
    assert run(["export", str(place / "classifier"), "--format", "torch", "--out", str(tmp_path / "c.pt2")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "c.pt2")
    program = torch.export.load(tmp_path / "c.pt2").module()
    assert program(torch.zeros(4, 1, 16, 16, dtype=torch.uint8))[0].shape == (4, 3)


def test_evaluate_takes_a_folder_that_nothing_was_trained_on(place, capsys):
    words = ["evaluate", str(place / "model"), "--dataset", f"folder:{place / 'my images'}", "--episodes", "3"]
    assert run([*words, "--queries", "2", "--norm", "inductive", "--json"]) == 0
    result = last_json(capsys.readouterr().out)
    assert result["data"] == "folder:my images/all"
    assert {row["method"] for row in result["results"]} == {"maml", "nearest-mean"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
@pytest.mark.parametrize("command", ["fit", "predict"])
def test_a_gpu_that_is_not_there_is_one_line(command, place, tmp_path, capsys):
    words = {
        "fit": fit_words(place, tmp_path / "c"),
        "predict": ["predict", str(place / "classifier"), str(place / "my images")],
    }
    fails(capsys, [*words[command], "--device", "cuda"], "no CUDA device")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["fit", "{}/missing", "--model", "{}/model", "--out", "{}/x"], "is not a folder"),
        (["fit", "{}/my images", "--model", "nothing", "--out", "{}/x"], "nothing is not a run directory"),
        (["fit", "{}/my images", "--model", "{}/model", "--out", "{}/x", "--steps", "many"], "whole number or auto"),
        (["fit", "{}/my images", "--model", "{}/model", "--out", "{}/x", "--reject", "0.001"], "needs 999 images"),
        (
            ["fit", "{}/my images", "--model", "timm:vit", "--out", "{}/x", "--weights", "{}/w"],
            "without --weights-inside",
        ),
        (["fit", "", "--model", "{}/model", "--out", "{}/x"], "invalid path value: ''"),
        (["fit", "{}/my images", "--model", "", "--out", "{}/x"], "'' is not a run directory"),
        (["fit", "{}/my images", "--model", "{}/model", "--out", "{}/x", "--max-pixels", "0"], "--max-pixels 0"),
        (["fit", "{}/my images", "--model", "{}/classifier", "--out", "{}/x"], "not a meta-trained model"),
        (["evaluate", "{}/classifier", "--dataset", "folder:{}/my images"], "not a meta-trained model"),
        (["predict", "{}/classifier", ""], "invalid path value: ''"),
        (["predict", "{}/classifier", "{}/my images", "--max-pixels", "-3"], "--max-pixels -3"),
        (["predict", "{}/classifier", "{}/my images", "--device", "tpu"], "--device"),
        (["export", "{}/classifier", "--out", ""], "invalid path value: ''"),
        (["predict", "{}/missing", "{}/my images"], "is not a folder"),
        (["predict", "{}/model", "{}/my images"], "metacontrast-classifier"),
        (["predict", "{}/classifier", "{}/classifier"], "holds no images"),
        (["predict", "{}/classifier", "{}/my images", "--pictures", "{}/x"], "add --explain"),
        (["predict", "{}/classifier", "{}/my images", "--explain", "--csv"], "--csv"),
        (["export", "{}/missing"], "is not a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(words, part, place, capsys):
    fails(capsys, [word.replace("{}", str(place)) for word in words], part)
