"""Bad input, one kind after the other: each is an `InputError` of one line that says what is wrong."""

import io
import json
import unicodedata
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from classifier_kit import SIZE, grey_images, tiny_model_folder, tiny_start, write_folder
from metacontrast import FewShotClassifier, ImageFormat, StartingPoint
from metacontrast.errors import InputError

IMAGES, LABELS = grey_images(per_class=2)


def refused(action, *parts: str) -> None:
    """One line that holds all parts."""
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def fit(X=IMAGES, y=LABELS, **parameters):
    return FewShotClassifier(tiny_start(), **parameters).fit(X, y)


@pytest.fixture(scope="module")
def fitted() -> FewShotClassifier:
    return fit()


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images", IMAGES, LABELS)


def with_pixel(value: float) -> np.ndarray:
    images = IMAGES / 255.0
    images[3, 0, 0] = value
    return images


@pytest.mark.parametrize(
    ("images", "parts"),
    [
        (with_pixel(np.nan), ("image 3", "NaN")),
        (with_pixel(np.inf), ("image 3", "infinity")),
        (with_pixel(1.5), ("image 3", "1.5", "between 0 and 1")),
        (with_pixel(-0.1), ("image 3", "-0.1")),
        (IMAGES.astype(np.int64) - 300, ("between 0 and 255",)),
        (IMAGES.astype(np.int32) + 300, ("int32", "between 0 and 255")),
        (IMAGES.astype(np.complex64), ("complex64",)),
        (IMAGES.astype(str), ("not numbers",)),
        (IMAGES[0], ("not a stack of images",)),
        (IMAGES[0, 0], ("not a stack of images",)),
        (np.stack([IMAGES] * 3, 3)[0], ("looks like one image", "predict([image])")),
        (IMAGES[None, None], ("not a stack of images",)),
        (np.stack([IMAGES] * 2, 3), ("image 0", "1, 3 or 4 channels")),
        (IMAGES[:, :0], ("image 0", "has shape (0, 16)")),
        (torch.from_numpy(IMAGES), ("looks like one image",)),
        (torch.zeros(6, SIZE * SIZE), ("looks like one image",)),
        (torch.zeros(6, 2, SIZE, SIZE), ("1, 3 or 4 channels",)),
        ([3, 4, 5, 6, 7, 8], ("image 0 is a int",)),
        ([None] * 6, ("image 0 is a NoneType",)),
        (7, ("put it in a list", "int")),
        ({"a": 1}, ("a is a int",)),
        ([], ("no images",)),
        (["", b"", b"text"], ("3 of 3 images",)),
    ],
)
def test_what_is_no_image(images, parts, fitted):
    refused(lambda: fitted.predict(images), *parts)


def test_labels_and_images_of_different_length():
    refused(lambda: fit(IMAGES, LABELS[:-1]), "6 images and 5 labels")


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        (None, ("labels are missing",)),
        ("class", ("a list with a label for each image", "str")),
        (["a"] * 6, ("1 class", "'a'", "at least 2")),
        ([0, 1, 0, 1, 0, float("nan")], ("a label is nan",)),
        ([0, 1, 0, 1, 0, None], ("a label is None",)),
        ([[0], [1], [0], [1], [0], [1]], ("not hashable",)),
        (np.zeros((6, 2)), ("shape (6, 2)",)),
        (dict.fromkeys("abcdef", "cat"), ("labels are a dict", "give a list")),
        (set("abcdef"), ("labels are a set", "give a list")),
        (frozenset("abcdef"), ("labels are a frozenset", "give a list")),
        ([torch.tensor([k % 2]) for k in range(6)], ("tensor of shape (1,)",)),
        ([torch.tensor([k % 2, 1]) for k in range(6)], ("tensor of shape (2,)",)),
        (np.array(["NaT"] * 6, "datetime64[ns]"), ("a label is None",)),
        (["é", unicodedata.normalize("NFD", "é")] * 3, ("same text",)),
    ],
)
def test_labels_that_cannot_be_learned(labels, parts):
    refused(lambda: fit(IMAGES, labels), *parts)


def test_one_image_is_one_class():
    refused(lambda: fit(IMAGES[:1], ["a"]), "1 class")


@pytest.mark.parametrize(
    ("parameters", "part"),
    [
        ({"device": "tpu"}, "device='tpu'"),
        ({"steps": 0}, "steps=0"),
        ({"steps": "some"}, "steps='some'"),
        ({"steps": 1.5}, "steps=1.5"),
        ({"lr": 0}, "lr=0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"scope": "encoder"}, "scope='encoder'"),
        ({"baseline": "mean"}, "baseline='mean'"),
        ({"folds": 1}, "folds=1"),
        ({"reject": 1.0}, "reject=1.0"),
        ({"reject": 0.01}, "needs 99 images"),
        ({"reject": 0.2, "folds": 0}, "folds=0 holds out none"),
        ({"steps": 10**9}, "steps=1000000000, but it must be 10000 or less"),
        ({"lr": 3e38, "steps": 9, "scope": "all", "folds": 0}, "diverged"),
    ],
)
def test_parameters_that_make_no_sense(parameters, part):
    refused(lambda: fit(**parameters), part)


def test_nothing_is_answered_before_fit(tmp_path):
    for ask in ("predict", "predict_proba", "explain", "is_rejected", "save"):
        with pytest.raises(NotFittedError, match="call fit first"):
            getattr(FewShotClassifier(tiny_start()), ask)(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    refused(lambda: fit(tmp_path / "missing", None), "is not a folder")


def test_an_empty_folder(tmp_path, fitted):
    refused(lambda: fit(tmp_path, None), "no class folders")
    refused(lambda: fitted.predict(tmp_path), "holds no images")


def test_a_folder_of_images_without_classes(tmp_path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    refused(lambda: fit(tmp_path, None), "no class folders", "1 images outside of any")


def test_a_folder_of_one_class(tmp_path):
    refused(lambda: fit(write_folder(tmp_path, IMAGES, ["only"] * 6), None), "1 class", "'only'")


def test_class_folders_equal_after_normalization(tmp_path):
    for form in ("NFC", "NFD"):
        write_folder(tmp_path, IMAGES[:2], [unicodedata.normalize(form, "café")] * 2)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system normalizes names")
    classifier = FewShotClassifier(tiny_start())
    refused(lambda: classifier.fit(tmp_path), "same text")


def test_a_link_out_of_the_folder_is_left_out_and_told(folder, tmp_path, fitted, caplog):
    Image.fromarray(IMAGES[0]).save(tmp_path / "elsewhere.png")
    (folder / "class0" / "link.png").symlink_to(tmp_path / "elsewhere.png")
    classifier = fit(folder, None)
    assert len(classifier.support_.y) == 6
    assert classifier.ignored_ == (("class0/link.png", "is a link out of the folder, or to a folder"),)
    assert len(fitted.predict(folder)) == 6
    assert "link.png is a link" in caplog.text


def test_heic_in_a_folder_is_told(folder, tmp_path, fitted, caplog):
    for name in ("1.heic", "2.HEIC"):
        (folder / "class0" / name).write_bytes(b"")
    assert len(fitted.predict(folder)) == 6
    assert "class0/1.heic is HEIC: pip install pillow-heif" in caplog.text
    assert "(1 more like it): left out" in caplog.text
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "1.heic").write_bytes(b"")
    refused(lambda: fitted.predict(tmp_path / "phone"), "holds no images", "1.heic is HEIC: pip install pillow-heif")


def test_a_file_without_an_ending_is_told_and_answers_are_in_order_of_paths(folder, tmp_path, fitted, caplog):
    """A file beside folders comes where its path does, not before all of them."""
    (folder / "class0" / "photo").write_bytes(b"")
    (folder / "notes.txt").write_bytes(b"")
    Image.fromarray(IMAGES[0]).save(folder / "class00.png")
    answers = list(fitted.predict_each(folder))
    assert [each.image for each in answers] == [str(file) for file in sorted(folder.rglob("*.png"))]
    assert "class0/photo has no file name ending: left out" in caplog.text
    assert "notes.txt" not in caplog.text


def test_one_open_animation_does_not_stand_for_its_frames(tmp_path, fitted):
    first, *others = map(Image.fromarray, IMAGES)
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    first.save(tmp_path / "b.gif")
    with Image.open(tmp_path / "a.gif") as moving, Image.open(tmp_path / "b.gif") as still:
        for images in (list(ImageSequence.Iterator(moving)), {"a": moving, "b": moving}):
            refused(lambda images=images: fitted.predict(images), "one open animation", "frame.copy()")
        assert len(fitted.predict([still, still, moving])) == 3


def test_a_frame_that_cannot_be_read_is_named(tmp_path, fitted):
    first, *others = [Image.fromarray(np.kron(image, np.ones((8, 8), np.uint8))) for image in IMAGES]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    (tmp_path / "a.gif").write_bytes((tmp_path / "a.gif").read_bytes()[:-2000])
    with Image.open(tmp_path / "a.gif") as moving:
        refused(lambda: fitted.predict(ImageSequence.Iterator(moving)), "image 5 cannot be read")


class NotFinite(nn.Module):
    """Features that are not finite where a whole image is white."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, x):
        features = x.flatten(1)
        return features.where(features.mean(1, keepdim=True) < 0.999, self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_have_no_answer(value):
    classifier = FewShotClassifier(StartingPoint.from_encoder(NotFinite(value), ImageFormat(1, SIZE)))
    classifier.fit(IMAGES.clip(0, 254), LABELS)
    images = [*IMAGES.clip(0, 254), np.full((SIZE, SIZE), 255, np.uint8)]
    for ask in ("predict", "predict_proba", "is_rejected", "transform"):
        refused(lambda ask=ask: getattr(classifier, ask)(images), "features of image 6 are not finite (1 of 7 images)")
    refused(lambda: list(classifier.predict_each({"white": images[-1]})), "features of white are not finite")
    refused(lambda: classifier.explain(images[-1]), "not finite")


def broken(kind: str) -> bytes:
    file = BytesIO()
    Image.fromarray(IMAGES[0]).save(file, "PNG")
    whole = file.getvalue()
    return {"text": b"no image at all", "zero bytes": b"", "truncated": whole[: len(whole) // 2]}[kind]


@pytest.mark.parametrize("kind", ["text", "zero bytes", "truncated"])
def test_a_broken_file_is_named_or_skipped(kind, folder, fitted):
    (folder / "class1" / "broken one.png").write_bytes(broken(kind))
    refused(lambda: fit(folder, None), "1 of 7 images", "class1/broken one.png")
    refused(lambda: fitted.predict(folder), "1 of 7 images", "broken one.png")
    assert len(fit(folder, None, skip_unreadable=True).support_.y) == 6


def test_an_image_of_too_many_pixels(fitted):
    large = np.zeros((100, 200), np.uint8)
    limited = FewShotClassifier(tiny_start(), max_pixels=19_999).fit(IMAGES, LABELS)
    refused(lambda: limited.predict([large]), "20000 pixels", "limit of 19999")
    assert len(limited.set_params(max_pixels=20_000).predict([large])) == 1


def test_a_model_that_is_not_there(tmp_path):
    refused(lambda: FewShotClassifier.from_pretrained("no-such-model"), "no-such-model is not a run directory")
    refused(lambda: FewShotClassifier.load(tmp_path / "missing"), "is not a folder")
    refused(lambda: FewShotClassifier.from_pretrained(tmp_path), "holds no trained model")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("what", ["start", "classifier"])
def test_an_incomplete_folder(missing, what, tmp_path, fitted):
    read = save(what, tmp_path, fitted)
    (tmp_path / missing).unlink()
    refused(lambda: read(tmp_path), str(tmp_path))


@pytest.mark.parametrize("what", ["start", "classifier"])
def test_a_folder_of_a_newer_version(what, tmp_path, fitted):
    read = save(what, tmp_path, fitted)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"format_version": 99}))
    refused(lambda: read(tmp_path), "format version 99", "reads 1")


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "something else"}'])
@pytest.mark.parametrize("what", ["start", "classifier"])
def test_a_folder_with_a_damaged_configuration(what, content, tmp_path, fitted):
    read = save(what, tmp_path, fitted)
    (tmp_path / "config.json").write_text(content)
    refused(lambda: read(tmp_path), "config.json")


@pytest.mark.parametrize("what", ["start", "classifier"])
def test_a_folder_with_damaged_tensors(what, tmp_path, fitted):
    read = save(what, tmp_path, fitted)
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "model.safetensors").write_bytes(bytes(data))
    refused(lambda: read(tmp_path), "model.safetensors", "damaged")


def test_files_of_two_classifiers(tmp_path, fitted):
    fitted.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"temperature": 2.0}))
    refused(lambda: FewShotClassifier.load(tmp_path), "do not belong together")


def test_a_classifier_where_a_model_is_wanted_and_the_reverse(tmp_path, fitted):
    fitted.save(tmp_path / "classifier")
    tiny_model_folder(tmp_path / "model")
    refused(lambda: FewShotClassifier.from_pretrained(tmp_path / "classifier"), "FewShotClassifier.load")
    refused(lambda: FewShotClassifier.load(tmp_path / "model"), "metacontrast-classifier")


@pytest.mark.parametrize("what", ["start", "classifier"])
def test_a_folder_that_holds_something_else_is_not_written_to(what, tmp_path, fitted):
    (tmp_path / "config.json").write_text('{"config": {}}')
    (tmp_path / "model.safetensors").write_bytes(b"a training")
    refused(lambda: save(what, tmp_path, fitted), "choose another folder")
    assert (tmp_path / "model.safetensors").read_bytes() == b"a training"


@pytest.mark.parametrize("of", [lambda label: frozenset([label]), lambda label: (label, b"bytes"), str.encode])
def test_labels_that_no_file_can_hold(of, tmp_path):
    classifier = fit(y=[of(label) for label in LABELS])
    refused(lambda: classifier.save(tmp_path), "cannot be written to a file", "text, numbers or tuples of them")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("weights", "part"),
    [
        ([1, 2], "shape (2,), but there are 6 images"),
        (["heavy"] * 6, "not numeric"),
        ([0] * 6, "not 0 everywhere"),
        ([-1, 1, 1, 1, 1, 1], "0 or more"),
        ([float("nan")] * 6, "finite"),
    ],
)
def test_weights_that_weigh_nothing(weights, part, fitted):
    refused(lambda: fitted.score(IMAGES, LABELS, sample_weight=weights), "sample_weight", part)


@pytest.mark.parametrize("model", [None, 5, [], b"omniglot-conv4", ""])
def test_what_names_no_model(model):
    refused(lambda: FewShotClassifier(model).fit(IMAGES, LABELS), "model" if model != "" else "'' is not a run")


def test_the_automatic_choice_is_no_model_before_fit(tmp_path):
    refused(lambda: FewShotClassifier().save_pretrained(tmp_path), "model='auto' is chosen by the images")


def test_an_empty_name_is_not_the_current_folder(fitted):
    refused(lambda: fitted.predict(""), "is empty")
    refused(lambda: fit("", None), "is empty")


@pytest.mark.parametrize("limit", [0, -1, None, "many", 1.5, True])
def test_a_limit_of_pixels_that_makes_no_sense(limit, fitted):
    refused(lambda: fit(max_pixels=limit), f"max_pixels={limit!r}")
    refused(lambda: clone(fitted).set_params(max_pixels=limit).fit(IMAGES, LABELS), f"max_pixels={limit!r}")


def test_an_image_that_pillow_does_not_open_whatever_the_limit(tmp_path, monkeypatch, fitted):
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    limited = FewShotClassifier(tiny_start(), max_pixels=10**9).fit(IMAGES, LABELS)
    refused(lambda: limited.predict(tmp_path), "1200 pixels, more than the limit of 1000")


def test_a_line_break_in_a_file_name_breaks_no_line(folder):
    (folder / "class1" / "two\nlines.png").write_bytes(b"")
    refused(lambda: fit(folder, None), r"two\nlines.png")


def save(what: str, folder, fitted: FewShotClassifier):
    """Write a starting point or a classifier; the function that reads it."""
    if what == "start":
        tiny_model_folder(folder)
        return FewShotClassifier.from_pretrained
    fitted.save(folder)
    return FewShotClassifier.load


def test_images_that_cannot_be_read_are_among_what_is_left_out(folder):
    (folder / "class1" / "broken.png").write_bytes(b"no image")
    assert fit(folder, None, skip_unreadable=True).ignored_ == (("class1/broken.png", "cannot be read"),)


def test_what_cannot_be_read_is_told_once(folder, caplog):
    """Not by every model that is compared; and it is not called left out where it ends the fit."""
    (folder / "class1" / "broken.png").write_bytes(b"no image")
    refused(lambda: FewShotClassifier().fit(folder), "1 of 7 images", "class1/broken.png")
    assert "left out" not in caplog.text
    FewShotClassifier(skip_unreadable=True).fit(folder)
    assert caplog.text.count("broken.png") == 1


def test_labels_of_which_none_is_a_class_are_told(fitted, caplog):
    assert fitted.score(IMAGES, ["elsewhere"] * len(IMAGES)) == 0
    assert "none of the labels (such as 'elsewhere') is a class" in caplog.text


def test_a_stream_that_cannot_seek_is_read(fitted):
    class Stream(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise OSError("seek")

    file = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(file, "png")
    assert fitted.predict([Stream(file.getvalue())]).tolist() == fitted.predict(IMAGES[:1]).tolist()
