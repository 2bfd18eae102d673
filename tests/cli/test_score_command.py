"""What `fit` says of a folder, `score` with its page, and the further answers of `predict`."""

import json
import shutil
from io import BytesIO, StringIO
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from classifier_kit import SIZE, grey_images, tiny_model_folder, tiny_start, write_folder
from metacontrast import EpisodeSampler, FewShotClassifier, images_from_dataset
from metacontrast.classifier import scoring
from metacontrast.classifier.inputs import as_items
from metacontrast.cli.main import run
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError


@pytest.fixture
def place(tmp_path) -> Path:
    """A model and a folder with everything in it that is no image of a class."""
    folder = write_folder(tmp_path / "images", *grey_images())
    (folder / "notes.txt").write_text("notes")
    (folder / "class0" / "photo.heic").write_bytes(b"")
    (folder / "class0" / "unnamed").write_bytes(b"")
    (folder / "empty").mkdir()
    Image.fromarray(grey_images()[0][0]).save(folder / "loose.png")
    (folder / "class1" / "far.png").symlink_to("/etc/hostname")
    tiny_model_folder(tmp_path / "model")
    return tmp_path


def fit(place: Path, *more: str, folder: str = "images") -> int:
    return run(["fit", str(place / folder), "--model", str(place / "model"), "--out", str(place / "out"), *more])


def last_json(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])


def test_fit_says_what_it_did(place, capsys):
    """Guards: classes with counts, and everything left out by name and reason."""
    assert fit(place, "--json") == 0
    out = capsys.readouterr().out
    assert "  class0: 5" in out
    assert "pillow_heif" in out
    reasons = {row["name"]: row["reason"] for row in last_json(out)["ignored"]}
    assert set(reasons) == {"notes.txt", "class0/photo.heic", "class0/unnamed", "empty/", "loose.png", "class1/far.png"}
    assert reasons["notes.txt"] == "has the ending .txt, which no image has"
    assert "outside of any class folder" in reasons["loose.png"]
    assert "link out of the folder" in reasons["class1/far.png"]
    assert last_json(out)["counts"] == [["class0", 5], ["class1", 5], ["class2", 5]]


def test_a_class_whose_images_are_all_broken_is_named(place, capsys):
    (place / "images" / "lost").mkdir()
    (place / "images" / "lost" / "a.png").write_bytes(b"")
    assert fit(place, "--skip-unreadable") == 0
    out, err = capsys.readouterr()
    assert "lost has no image that can be read: the class is left out" in out
    assert "class 'lost' has no image that can be read" in err


def test_training_and_testing_divide_a_folder(place, capsys):
    """Guards: not ten classes such as `training/class0`."""
    for split in ("training", "testing"):
        shutil.copytree(
            place / "images", place / "divided" / split, symlinks=True, ignore=shutil.ignore_patterns("*.png")
        )
        write_folder(place / "divided" / split, *grey_images(per_class=2))
    assert fit(place, "--json", folder="divided") == 0
    found = last_json(capsys.readouterr().out)
    assert (found["classes"], found["images"]) == (3, 6)
    assert {"name": "6 images of other splits", "reason": "are not in train"} in found["ignored"]


def test_a_folder_in_a_class_is_one_class_or_two(place, capsys):
    inside = place / "images" / "class0" / "old"
    inside.mkdir()
    Image.fromarray(grey_images()[0][1]).save(inside / "0.png")
    assert fit(place) == 2
    assert "one class or two? Pass --nested flatten" in capsys.readouterr().err
    assert fit(place, "--nested", "flatten", "--json") == 0
    assert last_json(capsys.readouterr().out)["counts"][0] == ["class0", 6]


def test_score_divides_a_folder_as_fit_did(place, capsys):
    """Two levels of folders are the classes' own with `flatten`, also where only `fit` was told so."""
    new = write_folder(place / "new", *grey_images(seed=4))
    for folder in (place / "images", new):
        (folder / "class0" / "old").mkdir()
        Image.fromarray(grey_images()[0][1]).save(folder / "class0" / "old" / "0.png")
    assert fit(place, "--nested", "flatten") == 0
    capsys.readouterr()
    assert run(["score", str(place / "out"), str(new), "--json"]) == 0
    out, err = capsys.readouterr()
    assert last_json(out)["classes"] == ["class0", "class1", "class2"]
    assert last_json(out)["accuracy"] > 0.9
    assert "not classes of the classifier" not in err


def test_score_names_folders_that_are_no_classes(place, capsys):
    """Numbers are other labels than the names of folders that read like them."""
    images, labels = grey_images()
    FewShotClassifier(tiny_start()).fit(images, [int(label[-1]) for label in labels]).save(place / "numbers")
    new = write_folder(place / "new", images, [label[-1] for label in labels])
    assert run(["score", str(place / "numbers"), str(new), "--model", str(place / "model")]) == 0
    err = capsys.readouterr().err
    assert "not classes of the classifier, so that their images count as mistakes: '0', '1', '2'" in err
    assert "its classes are 0, 1, 2" in err


def test_labels_beside_a_folder_of_classes_are_refused(place):
    """Guards: `fit(folder, y)` used to override the folder's labels without a word."""
    with pytest.raises(InputError, match="labels are given too"):
        FewShotClassifier(tiny_start()).fit(place / "images", ["a"] * 15)


def test_score_writes_a_page(place, capsys):
    """Guards accuracy with its interval, recall, confusion, and the mistakes with their pictures."""
    assert fit(place) == 0
    new = write_folder(place / "new", *grey_images(seed=4))
    shutil.move(new / "class0" / "000.png", new / "class1" / "wrong.png")
    write_folder(new, grey_images()[0][:2], ["unheard of"] * 2)
    capsys.readouterr()
    assert run(["score", str(place / "out"), str(new), "--json"]) == 0
    out, err = capsys.readouterr()
    found = last_json(out)
    assert found["images"] == 17
    assert found["accuracy"] == pytest.approx(14 / 17)
    assert found["interval"][0] < 14 / 17 < found["interval"][1]
    assert dict(found["recall"]) == pytest.approx({"class0": 1, "class1": 5 / 6, "class2": 1, "unheard of": 0})
    assert found["confusion"] == [[4, 0, 0, 0], [1, 5, 0, 0], [0, 0, 5, 0], [2, 0, 0, 0]]
    page = (place / "out" / "score.html").read_text()
    assert page.count("data:image/png;base64") == 3
    assert "not a class of the classifier" in page
    assert str(place / "out" / "score.html") in err


def test_a_class_without_images_has_no_recall(place, capsys):
    """Guards that JSON holds no NaN: it is null, and the class is neither listed nor part of the mean."""
    assert fit(place) == 0
    images, labels = grey_images(classes=2, seed=4)
    new = write_folder(place / "new", images, labels)
    capsys.readouterr()
    assert run(["score", str(place / "out"), str(new), "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out.strip().splitlines()[-1], parse_constant=lambda name: pytest.fail(name))
    assert dict(found["recall"]) == {"class0": 1, "class1": 1, "class2": None}
    assert found["balanced_accuracy"] == 1
    assert "class2" not in out.rpartition("{")[0]


def test_pictures_are_made_of_the_mistakes_that_are_shown(monkeypatch):
    """Guards that of 30 mistakes the 24 on the page are encoded, not all."""
    images, labels = grey_images(per_class=10)
    classifier = FewShotClassifier(tiny_start()).fit(images, labels)
    wrong = [f"class{(int(label[-1]) + 1) % 3}" for label in labels]
    report = scoring.report_on(classifier.state_, wrong, classifier.predict_each(images))
    made = []
    monkeypatch.setattr(scoring, "to_png", lambda pixels: made.append(pixels) or b"")
    page = scoring.as_page(report, classifier.state_, "title")
    assert (report.right, len(made), page.count("<figure>")) == (0, scoring.MISTAKES, scoring.MISTAKES)


def test_score_takes_test_of_a_divided_folder(place, capsys):
    """Guards that the command and `score` take the same images."""
    assert fit(place) == 0
    images, labels = grey_images()
    write_folder(place / "divided" / "train", images, labels)
    write_folder(place / "divided" / "test", images[3:12:4], ["class0", "class1", "class0"])
    assert run(["score", str(place / "out"), str(place / "divided"), "--json"]) == 0
    out, err = capsys.readouterr()
    found = last_json(out)
    assert (found["images"], found["accuracy"]) == (3, pytest.approx(2 / 3))
    assert "more than one split" not in err  # that warning is of meta-training, whose test classes are new
    assert FewShotClassifier.load(place / "out").score(place / "divided") == pytest.approx(2 / 3)


def test_score_never_writes_over_what_it_reads(place, capsys):
    assert fit(place) == 0
    image = place / "images" / "class0" / "000.png"
    before = image.read_bytes()
    for page in (image, place / "images"):
        assert run(["score", str(place / "out"), str(place / "images"), "--page", str(page)]) == 2
        assert f"{page} is read by this command and would be written over" in capsys.readouterr().err
    assert image.read_bytes() == before
    page = place / "images" / "page.html"  # which no image is
    assert run(["score", str(place / "out"), str(place / "images"), "--page", str(page)]) == 0
    assert page.read_text().startswith("<!doctype html>")
    capsys.readouterr()


def test_predict_names_more_classes_and_sets(place, capsys):
    assert fit(place) == 0
    image = str(place / "images" / "class2" / "010.png")
    capsys.readouterr()
    assert run(["predict", str(place / "out"), image, "--top", "2", "--sets", "0.8"]) == 0
    cells = capsys.readouterr().out.rstrip("\n").split("\t")
    assert len(cells) == 6
    assert cells[-1].startswith("{class2")
    assert run(["predict", str(place / "out"), image, "--top", "2", "--sets", "0.8", "--json"]) == 0
    found = last_json(capsys.readouterr().out)
    (answer,) = found["predictions"]
    assert sum(answer["probabilities"]) == pytest.approx(1)
    assert answer["top"][0]["label"] == answer["label"] == answer["set"][0] == "class2"
    for top in ("3", "99"):  # there are three classes
        assert run(["predict", str(place / "out"), image, "--top", top, "--csv"]) == 0
        head, row = capsys.readouterr().out.splitlines()
        assert head.endswith("label_2,probability_2,label_3,probability_3")
        assert len(row.split(",")) == len(head.split(","))


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--top", "0"], "--top 0"),
        (["--sets", "1.5"], "between 0 and 1"),
        (["--sets", "0.99"], "need 99 images"),
        (["--sets", "0.8", "--csv"], "no column for sets"),
        (["--model", "python:no:such"], "python:no:such"),
        (["--model", "omniglot-conv4"], "holds its own model"),
        (["--top", "2"], None),
    ],
)
def test_bad_flags_of_predict_are_one_line(more, part, place, capsys):
    assert fit(place) == 0
    capsys.readouterr()
    status = run(["predict", str(place / "out"), str(place / "images" / "class2" / "010.png"), *more])
    err = capsys.readouterr().err
    assert status == (0 if part is None else 2)
    assert part is None or (part in err and len(err.splitlines()) == 1)


class Pairs:
    """A data set as torchvision has them."""

    classes = ("cat", "dog", "cow")

    def __init__(self, rows=None):
        images, labels = grey_images()
        self.rows = rows or [(Image.fromarray(i), int(k[-1])) for i, k in zip(images, labels, strict=True)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


class Rows(Pairs):
    """A data set as Hugging Face has them."""

    classes = ()
    features: ClassVar = {"label": type("ClassLabel", (), {"names": ["cat", "dog", "cow"]})()}

    def __getitem__(self, i):
        image, label = self.rows[i]
        return {"image": image, "label": label}


@pytest.mark.parametrize("data", [Pairs(), Rows()], ids=["torchvision", "Hugging Face"])
def test_data_sets_are_labelled_images(data):
    """Guards: names of classes, and the same answers as from arrays."""
    classifier = FewShotClassifier(tiny_start()).fit(data)
    assert set(classifier.classes_) == {"cat", "dog", "cow"}
    images, labels = grey_images()
    other = FewShotClassifier(tiny_start()).fit(images, [Pairs.classes[int(k[-1])] for k in labels])
    np.testing.assert_array_equal(classifier.predict_proba(data), other.predict_proba(images))
    assert classifier.score(data) == other.score(images, [Pairs.classes[int(k[-1])] for k in labels])


@pytest.mark.parametrize("data", [Pairs(), Rows()], ids=["torchvision", "Hugging Face"])
def test_data_sets_are_trained_on(data):
    """Guards `images_from_dataset`: classes by name, pixels as the arrays have them, and tasks that can be drawn."""
    found = images_from_dataset(data, ImageFormat(1, SIZE, mean=(0.5,), std=(0.2,)), name="pets")
    assert (found.classes, found.counts.tolist()) == (("cat", "cow", "dog"), [5, 5, 5])
    images, labels = grey_images()
    names = np.array([Pairs.classes[int(label[-1])] for label in labels])
    np.testing.assert_array_equal(found.images[:, 0].numpy(), images[np.argsort(names, kind="stable")])
    assert (found.name, found.mean, found.std) == ("pets", (0.5,), (0.2,))
    assert EpisodeSampler(found, 2, 1, 2).batch([0]).support_x.shape == (1, 2, 1, SIZE, SIZE)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ([(Image.new("L", (4, 4)), 0)], "is a list, not a data set"),
        (Pairs([(Image.new("L", (4, 4)), 0)] * 3), r"1 class \('cat'\)"),
        (Pairs([(Image.new("L", (4, 4)), 0), (Image.new("L", (4, 4)), None)]), "a label is None"),
        (Pairs([(None, 0), (None, 1)]), "image 0 is a NoneType"),
        (Pairs([(Image.new("L", (4, 4)), 0, 1)] * 3), "not a data set"),
        (Pairs([(BytesIO(b"text"), 0), (BytesIO(b"text"), 1)]), "2 of 2 images cannot be used"),
    ],
    ids=["list", "one class", "no label", "no image", "triples", "broken"],
)
def test_what_is_no_data_set_to_train_on(data, part):
    with pytest.raises(InputError, match=part):
        images_from_dataset(data, ImageFormat(1, SIZE))


def test_images_of_further_kinds_are_read_alike(tmp_path):
    """Guards open files, buffers, single-column tables and rows: all give the pixels that the path gives."""
    image = Image.fromarray(grey_images()[0][0])
    path = tmp_path / "a.png"
    image.save(path)
    data = path.read_bytes()
    with path.open("rb") as file:
        kinds = [
            path,
            BytesIO(data),
            file,
            bytearray(data),
            memoryview(data),
            {"image": image},
            {"bytes": data, "path": None},
        ]
        sources = [item.source for item in as_items(kinds)]
    classifier = FewShotClassifier(tiny_start()).fit(*grey_images())
    answers = classifier.predict_proba(sources)
    assert (answers == answers[0]).all()
    column = np.array([[str(path)]] * 2, dtype=object)
    assert (classifier.predict_proba(column) == answers[0]).all()
    assert (classifier.predict_proba(BytesIO(data)) == answers[0]).all()


@pytest.mark.parametrize(
    ("images", "part"),
    [
        ({Path("a.png"), Path("b.png")}, "are a set"),
        ([{"caption": "no image"}], "no image"),
        ([BytesIO()], "is empty"),
        (Pairs([(Image.new("L", (4, 4)), 0), (Image.new("L", (4, 4)), 7)]), "a label is 7, but the data set has 3"),
        ([StringIO("text")], "opened as text"),
    ],
    ids=["set", "row", "empty", "label", "text"],
)
def test_further_kinds_that_are_no_images(images, part):
    classifier = FewShotClassifier(tiny_start()).fit(*grey_images())
    with pytest.raises(InputError, match=part):
        classifier.score(images) if isinstance(images, Pairs) else classifier.predict(images)


def test_a_data_set_without_labels_is_refused():
    class Nameless(Rows):
        def __getitem__(self, i):
            return {"picture": self.rows[i][0]}

    with pytest.raises(InputError, match="have picture, but no label: name that column 'label'"):
        FewShotClassifier(tiny_start()).fit(Nameless())
    classifier = FewShotClassifier(tiny_start()).fit(*grey_images())
    np.testing.assert_array_equal(classifier.predict(Nameless()), classifier.predict(grey_images()[0]))
