"""What `FewShotClassifier` promises of its answers."""

from dataclasses import replace
from datetime import date, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn
from torch.utils.data import Dataset, Subset

from classifier_kit import SIZE, grey_images, tiny_start, write_folder
from metacontrast import FewShotClassifier, load_dataset
from metacontrast.classifier.candidates import PROTOTYPE, Candidate, task_start
from metacontrast.classifier.choice import PER_CLASS, _sample
from metacontrast.classifier.cross_validation import ENOUGH_HELD_OUT
from metacontrast.classifier.fitted import Answers
from metacontrast.classifier.starting_point import StartingPoint, from_run
from metacontrast.classifier.support import labelled
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError
from metacontrast.maml.inner import adapt
from metacontrast.model.head import class_means
from metacontrast.training.start import USUAL_INNER
from metacontrast.types import Inner


def fitted(seed: int = 0, **parameters) -> FewShotClassifier:
    return FewShotClassifier(tiny_start(), **parameters).fit(*grey_images(seed=seed))


def test_it_learns_images_that_can_be_told_apart():
    classifier = fitted()
    assert classifier.score(*grey_images(seed=1)) > 0.8
    assert classifier.classes_.tolist() == ["class0", "class1", "class2"]


def assert_same_answers(one: Answers, two: Answers) -> None:
    assert torch.equal(one.probabilities, two.probabilities)
    assert torch.equal(one.similarity, two.similarity)
    assert torch.equal(one.rejected, two.rejected)


@pytest.mark.parametrize(
    "parameters", [{"reject": 0.2}, {"baseline": "prototype"}, {"model": "omniglot-conv4"}], ids=str
)
def test_an_answer_does_not_depend_on_what_else_is_asked(parameters):
    """Bit for bit, on every CPU: alone, among any number of others in any order, and from `predict_each`."""
    classifier = FewShotClassifier(**{"model": tiny_start()} | parameters).fit(*grey_images())
    images, _ = grey_images(seed=4)
    together = classifier.answer(images)
    for rows in ([14], [3, 8], list(range(7)), list(range(14, -1, -1))):
        expected = Answers(together.probabilities[rows], together.similarity[rows], together.rejected[rows])
        assert_same_answers(classifier.answer(images[rows]), expected)
    each = [prediction.probability for prediction in classifier.predict_each(images)]
    assert each == together.probabilities.amax(1).tolist()


@pytest.mark.parametrize("parameters", [{}, {"steps": 3, "scope": "all"}, {"baseline": "prototype", "reject": 0.2}])
def test_shuffling_the_support_images_changes_no_bit(parameters):
    images, labels = grey_images()
    order = np.random.default_rng(0).permutation(len(labels))
    one = fitted(**parameters)
    other = FewShotClassifier(tiny_start(), **parameters).fit(images[order], [labels[i] for i in order])
    assert (one.temperature_, one.threshold_) == (other.temperature_, other.threshold_)
    np.testing.assert_array_equal(one.predict_proba(images), other.predict_proba(images))


def test_fitting_in_parts_is_fitting_the_union():
    """New examples, then new classes; the answers are those of one `fit`, bit for bit."""
    images, labels = grey_images(classes=4)
    parts = FewShotClassifier(tiny_start())
    for rows in (range(8), range(8, 10), range(10, 20)):
        parts.partial_fit(images[rows.start : rows.stop], [labels[row] for row in rows])
    whole = FewShotClassifier(tiny_start()).fit(images, labels)
    assert parts.classes_.tolist() == whole.classes_.tolist()
    np.testing.assert_array_equal(parts.predict_proba(images), whole.predict_proba(images))


@pytest.mark.parametrize("scope", ["head", "all"])
@pytest.mark.parametrize("head", ["zeroed", "shared", "prototype"])
def test_the_logits_are_those_of_the_core(scope, head, in_float64):
    """Against `adapt` and the inductive policy of `Model`, which run the support set again: equal to 1e-10."""
    start = tiny_start(head=head)
    classifier = FewShotClassifier(start, steps=2, lr=0.1, scope=scope).fit(*grey_images())
    support = classifier.support_
    model, params = task_start(start.model, start.params, 3)
    x, query = (start.images.to_input(t) for t in (support.images, torch.from_numpy(grey_images(seed=5)[0][:, None])))
    adapted = adapt(model, params, x, support.y, Inner(2, 0.1, scope))
    expected = model.query_logits(adapted, x, query)
    logits, _ = classifier.state_.fitted.network(torch.from_numpy(grey_images(seed=5)[0][:, None]))
    torch.testing.assert_close(logits, expected, atol=1e-10, rtol=1e-10)


def test_the_baseline_is_the_nearest_class_mean(in_float64):
    start, classifier = tiny_start(), fitted(baseline="prototype")
    support, pixels = classifier.support_, torch.from_numpy(grey_images(seed=5)[0][:, None])
    x, query = (start.images.to_input(t) for t in (support.images, pixels))
    means = class_means(start.model.features(start.params.encoder, x), support.y, 3)
    nearest = torch.cdist(start.model.query_features(start.params.encoder, x, query), means).argmin(1)
    assert classifier.predict(pixels).tolist() == classifier.classes_[nearest.numpy()].tolist()


def test_unequal_classes_have_equal_shares(in_float64):
    """After one step the bias is η (share of the class − 1/K): 0, whether or not one class has more images."""
    images, labels = grey_images(per_class=2)
    more = [*range(6), *[0, 1] * 4]
    for rows in (list(range(6)), more):
        classifier = FewShotClassifier(tiny_start(), folds=0).fit(images[rows], [labels[i] for i in rows])
        assert classifier.state_.fitted.network.bias.abs().max() < 1e-14


@pytest.mark.parametrize(
    "labels",
    [
        [3, 1, 2],
        [True, False, True],
        [1.5, 0.5, 2.5],
        [(1, "a"), (0, "b"), (2, "c")],
        [1, "one", (1,)],
        ["é", "日本", "a b"],
    ],
)
def test_labels_of_any_hashable_kind(labels):
    images, _ = grey_images(per_class=1)
    classifier = FewShotClassifier(tiny_start()).fit(images, labels)
    assert classifier.predict(images).tolist() == labels or len(set(labels)) < 3
    assert set(classifier.classes_.tolist()) == set(labels)


def test_single_numbers_of_other_libraries_are_labels():
    """A tensor is equal to nothing but itself: as labels as they are, every image would be a class of its own."""
    images, _ = grey_images(per_class=2, classes=2)
    for labels in (list(torch.tensor([0, 0, 1, 1])), [np.int64(each) for each in (0, 0, 1, 1)], Column([0, 0, 1, 1])):
        assert FewShotClassifier(tiny_start()).fit(images, labels).classes_.tolist() == [0, 1]


class Column:
    """What a table's column has: NumPy can make an array of it."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


def test_paths_may_come_as_an_array_or_a_column(tmp_path):
    folder = write_folder(tmp_path, *grey_images())
    files = [str(file) for file in sorted(folder.rglob("*.png"))]
    classifier = fitted()
    expected = classifier.predict(files).tolist()
    for paths in (np.array(files), np.array(files, dtype=object), Column(files), Column(grey_images()[0])):
        assert classifier.predict(paths).tolist() == expected


class Labelled(Column):
    """A column whose rows have labels of their own, as pandas has it: `column[0]` is the row labelled 0."""

    ndim = 1

    def __init__(self, values, index):
        super().__init__(values)
        self.index = list(index)

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.values)

    def __getitem__(self, label):
        return self.values[self.index.index(label)]

    def __array__(self, dtype=None, copy=None):
        array = np.empty(len(self.values), dtype=object)
        array[:] = self.values
        return array


@pytest.mark.parametrize("index", [range(15), range(14, -1, -1), range(3, 18), "abcdefghijklmno"], ids=str)
def test_a_column_counts_by_position_whatever_its_index(index, tmp_path):
    """Guards paths, `{"bytes", "path"}` and labelled rows of a table that was shuffled or split."""
    classifier = fitted()
    images, labels = grey_images()
    files = [str(file) for file in sorted(write_folder(tmp_path, images, labels).rglob("*.png"))]
    expected = classifier.predict_proba(images)
    rows = [{"bytes": Path(file).read_bytes(), "path": None} for file in files]
    pairs = [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]
    for values in (files, rows, pairs, list(images), list(zip(images, labels, strict=True))):
        np.testing.assert_array_equal(classifier.predict_proba(Labelled(values, index)), expected)
    learned = FewShotClassifier(tiny_start()).fit(Labelled(pairs, index))
    np.testing.assert_array_equal(learned.predict_proba(images), expected)
    learned = FewShotClassifier(tiny_start()).fit(Labelled(files, index), Labelled(labels, reversed(index)))
    np.testing.assert_array_equal(learned.predict_proba(images), expected)


def frames_in_one_array(images):
    buffer = np.empty_like(images[0])
    for image in images:
        buffer[:] = image
        yield buffer


def frames_in_one_image(images):
    buffer = Image.new("L", images[0].shape)
    for image in images:
        buffer.paste(Image.fromarray(image))
        yield buffer


class Frames:
    """A data set whose rows share an array."""

    def __init__(self, images):
        self.images, self.buffer = images, np.empty_like(images[0])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.buffer[:] = self.images[i]
        return self.buffer, "class0"


class Named(Dataset):  # type: ignore[type-arg]
    """A data set as torchvision has them: numbers, and the names of their classes."""

    classes = ("ant", "bee", "cat")

    def __init__(self, images, numbers):
        self.rows = list(zip(map(Image.fromarray, images), numbers, strict=True))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def test_a_part_of_a_data_set_has_the_same_names():
    """So that a classifier of the whole is scored on a part, and the other way round."""
    images, labels = grey_images()
    whole = Named(images, [int(label[-1]) for label in labels])
    part = Subset(Subset(whole, range(14, -1, -1)), range(0, 15, 2))
    classifier = FewShotClassifier(tiny_start()).fit(part)
    assert classifier.classes_.tolist() == ["ant", "bee", "cat"]
    assert classifier.score(part) == 1
    assert set(classifier.predict(whole)) == {"ant", "bee", "cat"}


def test_frames_that_share_an_object_are_answered_each(tmp_path):
    classifier = fitted()
    images, _ = grey_images(per_class=1)
    first, *others = map(Image.fromarray, images)
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    expected = classifier.predict_proba(images)
    for frames in (frames_in_one_array(images), frames_in_one_image(images), Frames(images)):
        np.testing.assert_array_equal(classifier.predict_proba(frames), expected)
    with Image.open(tmp_path / "a.gif") as moving:
        copies = [frame.copy() for frame in ImageSequence.Iterator(moving)]
        found = classifier.predict_proba(ImageSequence.Iterator(moving))
    assert len(copies) == 3
    np.testing.assert_array_equal(found, classifier.predict_proba(copies))


def test_files_opened_one_after_the_other_are_still_turned_and_named(tmp_path):
    """Guards the copy of what an iterator gives: the orientation counts once, and the others are answered."""
    classifier = fitted()
    turned = Image.Exif()
    turned[0x0112] = 6
    for kind in ("tiff", "png"):
        Image.fromarray(grey_images()[0][0]).save(tmp_path / f"1.{kind}", exif=turned)
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:-40])
    files = [file.read_bytes() for file in sorted(tmp_path.iterdir())]
    for read in (False, True):
        opened = (Image.open(BytesIO(file)) for file in files[:2])
        if read:
            opened = (image for image in opened if image.load())
        np.testing.assert_array_equal(classifier.predict_proba(opened), classifier.predict_proba(files[:2]))
    found = list(classifier.predict_each(Image.open(BytesIO(file)) for file in files))
    assert [each.problem is None for each in found] == [True, True, False]


@pytest.mark.parametrize(
    "labels",
    [
        [2**53 + 1, 2**63 + 2, -1],
        [2**64 + 1, 2**64 + 2, 2**64 + 3],
        ["a", "a\0", "b"],
        [np.datetime64(day, "ns") for day in (1, 2, 3)],
        [np.timedelta64(day, "ns") for day in (1, 2, 3)],
    ],
    ids=["int64", "int65", "NUL", "time", "duration"],
)
def test_labels_that_numpy_would_change_stay_as_they_are(labels):
    images, _ = grey_images(per_class=1)
    classifier = FewShotClassifier(tiny_start()).fit(images, labels)
    assert classifier.predict(images).tolist() == labels
    assert [type(label) for label in classifier.predict(images)] == [type(label) for label in labels]
    assert classifier.score(images, labels) == 1


@pytest.mark.parametrize(("unit", "kind"), [("ns", datetime), ("us", datetime), ("D", date)])
def test_arrays_of_times_are_labels(unit, kind):
    times = np.array(["2020-01-01", "2020-01-02", "2020-01-03"], f"datetime64[{unit}]")
    classifier = FewShotClassifier(tiny_start()).fit(grey_images(per_class=1)[0], times)
    assert [type(label) for label in classifier.classes_] == [kind] * 3
    assert classifier.classes_.tolist() == [kind(2020, 1, day) for day in (1, 2, 3)]
    assert classifier.score(grey_images(per_class=1)[0], times) == 1


def test_tuples_of_labels_are_saved(tmp_path):
    labels = [("left", 1), ("left", (2, "b")), (0.5,)]
    images, _ = grey_images(per_class=1)
    classifier = FewShotClassifier(tiny_start()).fit(images, labels)
    classifier.save(tmp_path)
    assert FewShotClassifier.load(tmp_path).predict(images).tolist() == labels


def test_images_of_every_kind_are_read_alike(tmp_path):
    """A path, its text, bytes, PIL, arrays, floats and tensors of one image get one answer, together and alone."""
    image = grey_images(seed=5)[0][0]
    path = tmp_path / "an image é.png"
    Image.fromarray(image).save(path)
    kinds = [path, str(path), path.read_bytes(), Image.fromarray(image), image, image[..., None], image / 255.0]
    kinds += [torch.from_numpy(image)[None], torch.from_numpy(image / 255.0).float()[None], image.astype(np.int64)]
    kinds += [np.stack([image] * 3, 2), Image.fromarray(image).convert("RGBA"), image.astype(np.uint16) * 257]
    kinds += [(image.astype(np.uint16) * 257).astype(">u2"), Image.fromarray(image.astype(np.int32))]
    classifier = fitted()
    together = classifier.predict_proba(kinds)
    assert (together == together[0]).all()
    assert all((classifier.predict_proba([kind]) == together[0]).all() for kind in kinds)


def test_sizes_and_modes_may_be_mixed():
    images, labels = grey_images(per_class=1)
    large = [Image.fromarray(images[0]).resize((40, 30)), Image.fromarray(images[1]).convert("RGB"), images[2]]
    classifier = FewShotClassifier(tiny_start()).fit(large, labels)
    assert classifier.predict_proba(large).shape == (3, 3)
    assert FewShotClassifier(tiny_start(channels=3)).fit(large, labels).predict(large).tolist() == labels


def test_a_folder_is_its_folders_names(tmp_path):
    images, labels = grey_images()
    names = {"class0": "one class", "class1": "ひらがな", "class2": "deep/er"}
    folder = write_folder(tmp_path / "my images", images, [names[label] for label in labels])
    classifier = FewShotClassifier(tiny_start()).fit(folder)
    assert set(classifier.classes_) == set(names.values())
    assert classifier.score(folder) == classifier.score(images, [names[label] for label in labels])
    assert len(classifier.predict(folder)) == len(classifier.predict(str(folder))) == 15


def test_a_divided_folder_is_fitted_on_its_train_part(tmp_path):
    images, labels = grey_images()
    for split in ("train", "test"):
        write_folder(tmp_path / split, images, labels)
    classifier = FewShotClassifier(tiny_start()).fit(tmp_path)
    assert (len(classifier.support_.y), classifier.classes_.tolist()) == (15, ["class0", "class1", "class2"])


def test_the_first_frame_of_an_animation_counts(tmp_path):
    image, other = (Image.fromarray(each) for each in grey_images(seed=5)[0][:2])
    image.save(tmp_path / "moving.gif", save_all=True, append_images=[other])
    image.save(tmp_path / "still.gif")
    found = fitted().predict_proba([tmp_path / "moving.gif", tmp_path / "still.gif"])
    np.testing.assert_array_equal(found[0], found[1])


def test_saved_and_loaded_it_answers_the_same(tmp_path):
    classifier = fitted(steps=np.int64(2), scope="all", reject=np.float64(0.2), baseline="auto")
    classifier.save(tmp_path / "mine")
    again = FewShotClassifier.load(tmp_path / "mine")
    images, labels = grey_images(seed=5)
    np.testing.assert_array_equal(again.predict_proba(images), classifier.predict_proba(images))
    np.testing.assert_array_equal(again.is_rejected(images), classifier.is_rejected(images))
    assert again.compare_ == classifier.compare_
    assert {file.name for file in (tmp_path / "mine").glob("[!.]*")} == {"config.json", "model.safetensors"}
    for each in (again, classifier):
        each.partial_fit(images, labels)
    np.testing.assert_array_equal(again.predict_proba(images), classifier.predict_proba(images))


def test_the_starting_point_comes_back(tmp_path):
    classifier = FewShotClassifier(tiny_start())
    classifier.save_pretrained(tmp_path / "start")
    again = FewShotClassifier.from_pretrained(tmp_path / "start", steps=2)
    assert again.steps == 2
    images, labels = grey_images()
    np.testing.assert_array_equal(
        again.fit(images, labels).predict_proba(images),
        FewShotClassifier(tiny_start(), steps=2).fit(images, labels).predict_proba(images),
    )


def test_a_saved_start_adapts_as_it_was_told_to(tmp_path):
    FewShotClassifier(tiny_start(), steps=4, lr=0.05, scope="head").save_pretrained(tmp_path / "start")
    one = FewShotClassifier(tmp_path / "start").fit(*grey_images())
    inner = one.state_.plan.inner
    assert (inner.steps, inner.lr, inner.scope) == (4, 0.05, "head")
    one.save(tmp_path / "fitted")
    assert FewShotClassifier.load(tmp_path / "fitted").state_.start.inner == inner


def test_where_to_compute_and_what_to_show_are_not_saved(tmp_path):
    """A file fitted on a GPU, or with bars, is answered from elsewhere."""
    fitted(device="cpu", verbose=True).save(tmp_path)
    again = FewShotClassifier.load(tmp_path)
    assert (again.device, again.verbose) == ("auto", False)


def test_bars_are_shown_where_they_are_wanted(capsys):
    """One for reading, one for the cross-validation."""
    fitted()
    assert capsys.readouterr().err == ""
    fitted(verbose=True)
    shown = capsys.readouterr().err
    assert "reading" in shown
    assert "cross-validating" in shown


def test_adding_examples_keeps_the_model_that_was_fitted():
    images, labels = grey_images()
    classifier = fitted().set_params(model="a name that is no model")
    assert len(classifier.partial_fit(images, labels).support_.y) == 30


def test_images_left_out_are_told(tmp_path, caplog):
    folder = write_folder(tmp_path, *grey_images())
    (folder / "class1" / "broken.png").write_bytes(b"")
    FewShotClassifier(tiny_start(), skip_unreadable=True).fit(folder)
    assert "class1/broken.png is empty" in caplog.text


def test_a_clone_has_the_parameters_and_not_the_fit():
    classifier = fitted(steps=2)
    copy = clone(classifier)
    assert copy.get_params() == classifier.get_params()
    assert not hasattr(copy, "classes_")


def test_scikit_learns_cross_validation_runs():
    images, labels = grey_images(per_class=6)
    scores = cross_val_score(FewShotClassifier(tiny_start(), folds=0), list(images), labels, cv=3)
    assert scores.mean() > 0.8


def test_scikit_learns_search_over_a_pipeline_runs(tmp_path):
    """Paths in, an own step before the classifier, its parameters searched."""
    folder = write_folder(tmp_path, *grey_images(per_class=4))
    files = sorted(folder.rglob("*.png"))
    steps = [("turn", FunctionTransformer(upside_down)), ("classify", FewShotClassifier(tiny_start(), folds=0))]
    search = GridSearchCV(
        Pipeline(steps), {"classify__baseline": ["none", "prototype"], "classify__steps": [1, 3]}, cv=2
    )
    search.fit(files, [file.parent.name for file in files])
    assert search.best_score_ > 0.8
    assert set(search.predict(files[:3])) <= set(search.classes_)


def upside_down(files):
    return [np.flipud(np.asarray(Image.open(file))) for file in files]


@pytest.mark.parametrize("head", ["learned", "shared", "prototype"])
def test_models_of_every_head_adapt_to_any_ways(head):
    images, labels = grey_images(classes=5)
    classifier = FewShotClassifier(tiny_start(head=head), steps=2, scope="all").fit(images, labels)
    assert classifier.score(images, labels) > 0.8


@pytest.mark.parametrize("scope", ["head", "all"])
def test_any_module_can_be_the_encoder(scope, tmp_path):
    """Frozen or adapted; the user's own module is left as it was."""
    torch.manual_seed(0)
    own = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    before = [t.clone() for t in own.state_dict().values()]
    form = ImageFormat(3, 16, mean=(0.5,), std=(0.25,))
    start = StartingPoint.from_encoder(own, form, Inner(3, 0.05, scope), feature_size=8 * 7 * 7)
    images, labels = grey_images()
    classifier = FewShotClassifier(start).fit(images, labels)
    assert classifier.score(images, labels) > 0.9
    assert all(torch.equal(a, b) for a, b in zip(before, own.state_dict().values(), strict=True))
    classifier.save(tmp_path)
    with pytest.raises(InputError, match="cannot be rebuilt"):
        FewShotClassifier.load(tmp_path)
    again = FewShotClassifier.load(tmp_path, start)
    np.testing.assert_array_equal(again.predict_proba(images), classifier.predict_proba(images))


@pytest.mark.slow
def test_a_folder_of_five_hundred_classes_of_five_images(tmp_path):
    """Guards many classes through the model that comes along, half a minute of one core: one fold of an image of each
    class is held out, which is enough (`ENOUGH_HELD_OUT`), and the whole support set is learned from.
    """
    images, labels = grey_images(classes=500)
    folder = write_folder(tmp_path, images, labels)
    classifier = FewShotClassifier("omniglot-conv4", baseline="auto").fit(folder)
    assert len(classifier.classes_) == 500
    assert (classifier.compare_[0].images, len(classifier.support_.y)) == (ENOUGH_HELD_OUT, 2500)
    assert classifier.score(folder) > 0.9


def test_five_hundred_classes_of_five_images():
    images, labels = grey_images(classes=500)
    classifier = FewShotClassifier(tiny_start(), folds=2).fit(images, labels)
    assert len(classifier.classes_) == 500
    assert classifier.score(images[::7], labels[::7]) > 0.1
    assert classifier.predict_proba(images[:2]).shape == (2, 500)


def test_the_automatic_choice_is_the_best_of_the_report():
    classifier = fitted(steps="auto", baseline="auto")
    used = [row for row in classifier.compare_ if row.chosen]
    assert len(used) == 1
    assert used[0].cross_entropy == min(row.cross_entropy for row in classifier.compare_)
    assert {row.images for row in classifier.compare_} == {15}
    assert len(classifier.compare_) == 16 + 6 + 3


def test_without_a_second_image_nothing_is_calibrated():
    images, labels = grey_images(per_class=1)
    classifier = FewShotClassifier(tiny_start(), steps="auto", baseline="auto").fit(images, labels)
    assert classifier.compare_ == ()
    assert classifier.state_.fitted.candidate != PROTOTYPE


@pytest.mark.parametrize(("head", "power"), [("prototype", 0.0), ("adapted", 0.5), ("ridge", 0.5), ("logistic", 0.25)])
def test_without_a_second_image_the_temperature_is_the_models_own_for_that_many_classes(head, power, tmp_path):
    temperatures = {"prototype": 4.0, "adapted": 3.0, "ridge": 2.0, "logistic": 6.0}
    start = replace(tiny_start(), temperatures=temperatures)
    images, labels = grey_images(per_class=1, classes=3)
    classifier = FewShotClassifier(start, head=head).fit(images, labels)
    assert classifier.temperature_ == pytest.approx(temperatures[head] * (5 / 3) ** power, rel=1e-12)
    again = FewShotClassifier(start, head=head, steps=start.inner.steps + 1 if head == "adapted" else None)
    assert again.fit(images, labels).temperature_ == (1.0 if head == "adapted" else classifier.temperature_)
    classifier.save(tmp_path / "saved")
    assert FewShotClassifier.load(tmp_path / "saved").state_.start.temperatures == temperatures


def test_a_trained_model_is_at_temperature_1_on_tasks_like_its_own():
    ways = (run := tiny_start().run).config.ways
    start = from_run("mine", run)
    assert start.temperature(Candidate(start.inner.lr, start.inner.steps), start.inner.scope, ways) == 1.0


def test_the_measured_temperature_of_inner_steps_is_not_that_of_other_steps():
    images = ImageFormat(1, SIZE)
    usual, other = (
        StartingPoint.from_encoder(nn.Flatten(), images, inner) for inner in (USUAL_INNER, Inner(1, 0.5, "head"))
    )
    assert usual.temperatures["adapted"] < 1 == other.temperatures["adapted"]


@pytest.mark.parametrize(("ways", "head"), [(5, "adapted"), (20, "adapted"), (20, "ridge"), (20, "prototype")])
def test_probabilities_from_one_image_of_each_class_are_near_the_accuracy(ways, head):
    """Mean probability of the answers against accuracy, on drawings that the model was not trained on.

    At a temperature of 1 they are .2 to .5 apart.
    """
    data = load_dataset("glyphs", split="test")
    generator, starts = np.random.default_rng(0), data.starts.tolist()
    found = []
    for _ in range(5):
        rows = np.array([starts[k] for k in generator.choice(len(data.classes), ways, replace=False)])
        drawings = [np.asarray(image).squeeze() for image in data.images[np.concatenate([rows, rows + 1])]]
        classifier = FewShotClassifier("omniglot-conv4", head=head).fit(drawings[:ways], list(range(ways)))
        probabilities = classifier.predict_proba(drawings[ways:])
        found += zip(probabilities.max(1), probabilities.argmax(1) == np.arange(ways), strict=True)
    confidence, right = np.array(found).mean(0)
    assert abs(confidence - right) < 0.12


def test_what_is_refused_has_no_label():
    classifier = fitted(reject=0.2)
    images, _ = grey_images(classes=12, seed=9)
    refused = classifier.is_rejected(images)
    assert refused.any()
    assert [label is None for label in classifier.predict(images)] == refused.tolist()
    assert not fitted().is_rejected(images).any()


def test_a_bigger_rate_refuses_more():
    some, more = (fitted(reject=rate).threshold_ for rate in (0.1, 0.5))
    assert some < more


def test_predicting_one_by_one_names_what_is_broken(tmp_path):
    images, _ = grey_images(seed=5)
    Image.fromarray(images[0]).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    files = [tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "missing.png"]
    found = list(fitted().predict_each(files))
    assert [each.problem is None for each in found] == [True, False, False]
    assert found[0].label == fitted().predict([images[0]])[0]
    assert "bad.png is not an image" in found[1].problem
    assert "missing.png" in found[2].problem
    assert found[0].pixels.shape[1] == SIZE


def test_a_partial_fit_that_fails_keeps_none_of_its_images():
    """What was learned before is answered as before, and the next call does not learn the refused images."""
    x, y = grey_images()
    clf = FewShotClassifier(model=tiny_start(), reject=0.1, folds=2, reject_label="new").fit(x, y)
    before = clf.predict_proba(x)
    with pytest.raises(InputError, match="reject_label"):
        clf.partial_fit(x[:2], ["new", "new"])
    assert clf.support_.classes == ("class0", "class1", "class2")
    np.testing.assert_array_equal(clf.predict_proba(x), before)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"nested": "deep"}, "nested"), ({"max_pixels": -1}, "max_pixels"), ({"verbose": "no"}, "verbose"),
     ({"lr": True}, "lr=True"), ({"model": "auto", "weights": "some.safetensors"}, "weights")],
    ids=str,
)  # fmt: skip
def test_parameters_are_checked_before_any_image_is_read(wrong, words):
    with pytest.raises(InputError, match=words):
        FewShotClassifier(**({"model": tiny_start()} | wrong)).fit("no such folder", None)


def test_one_class_alone_begins_with_the_model_that_the_images_look_like():
    """`auto` has nothing to compare yet."""
    x, _ = grey_images()
    clf = FewShotClassifier().partial_fit(x[:2], ["one", "one"])
    assert clf.support_.classes == ("one",)


def test_the_images_that_choose_a_model_do_not_depend_on_the_folders_name(tmp_path):
    """More images than are looked at; those that are must be the same wherever the folder lies."""
    images, labels = grey_images(2, PER_CLASS + 5)
    picked = []
    for name in ("one", "another"):
        folder = write_folder(tmp_path / name, images, labels)
        items, _ = labelled(folder)
        rows = _sample(items)
        assert len(rows) == 2 * PER_CLASS
        picked.append([items[row].source.read_bytes() for row in rows])
    assert picked[0] == picked[1]
