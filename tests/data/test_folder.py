"""A user's folder becomes classes of images, and whatever is wrong with it is told by name in one line."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metacontrast.data.decode import ReadOptions
from metacontrast.data.folder import SPLITS, class_files, find_classes, read, sources, split_classes
from metacontrast.errors import InputError

SMALL = ReadOptions(image_size=4)


def draw(root: Path, *names: str, mode: str = "RGB", value: int = 255) -> Path:
    """Write a plain image of this value under each name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (value,) * 3).convert(mode).save(path)
    return root


def test_a_folder_of_class_folders(tmp_path):
    draw(tmp_path, "dog/1.png", "cat/b.jpg", "cat/a.png", "cat/c.GIF")
    images = read(tmp_path, "train", SMALL)
    assert images.classes == ("cat", "dog")
    assert images.counts.tolist() == [3, 1]
    assert images.shape == (3, 4, 4)
    assert images.mean == (0.485, 0.456, 0.406)
    assert images.std == (0.229, 0.224, 0.225)
    assert images.name == f"folder:{tmp_path.name}/train"


def test_images_are_84_pixels_a_side_unless_told(tmp_path):
    assert read(draw(tmp_path, "a/1.png", "b/1.png"), "train", ReadOptions()).shape == (3, 84, 84)


def test_files_are_in_the_order_of_their_names(tmp_path):
    for value, name in ((30, "10"), (10, "1"), (20, "1a")):
        draw(tmp_path, f"a/{name}.png", value=value)
    draw(tmp_path, "b/1.png")
    assert read(tmp_path, "train", SMALL).images[:3, 0, 0, 0].tolist() == [10, 30, 20]


def test_nested_folders_are_classes_named_by_their_path(tmp_path):
    draw(tmp_path, "Futurama/character07/1.png", "Futurama/character01/1.png", "Greek/alpha/1.png", "Greek/0.png")
    names = ("Futurama/character01", "Futurama/character07", "Greek", "Greek/alpha")
    assert read(tmp_path, "train", SMALL).classes == names


@pytest.mark.parametrize("inside", ["cat/more/1.png", "cat/more/2020/1.png"])
def test_a_class_inside_a_class_is_asked_about_at_any_depth(tmp_path, inside):
    draw(tmp_path, "cat/1.png", inside, "dog/1.png")
    with pytest.raises(InputError, match="'cat' holds images and so does 'cat/more"):
        find_classes(tmp_path)
    assert {name: len(files) for name, files in find_classes(tmp_path, "flatten").classes.items()} == {
        "cat": 2,
        "dog": 1,
    }


def test_names_with_spaces_and_of_any_script(tmp_path):
    names = ("my cat", "Кошка", "ねこ", "قطة")
    draw(tmp_path, *(f"{name}/im age {name}.png" for name in names))
    assert set(read(tmp_path, "train", SMALL).classes) == set(names)


def test_class_names_are_composed(tmp_path):
    """A Mac writes é as two characters, others as one; the class is the same."""
    draw(tmp_path, f"{unicodedata.normalize('NFD', 'été')}/1.png", "b/1.png")
    assert "été" in read(tmp_path, "train", SMALL).classes


def test_two_spellings_of_one_name_are_an_error(tmp_path):
    draw(tmp_path, *(f"{unicodedata.normalize(form, 'été')}/1.png" for form in ("NFC", "NFD")))
    with pytest.raises(InputError, match="the same name; rename one of them"):
        read(tmp_path, "train", SMALL)


def test_hidden_and_other_files_are_ignored(tmp_path):
    draw(tmp_path, "a/1.png", "a/.2.png", ".c/1.png", "__MACOSX/a/1.png", "b/1.png", "loose.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "b" / "Thumbs.db").write_bytes(b"no image")
    images = read(tmp_path, "train", SMALL)
    assert images.classes == ("a", "b")
    assert images.counts.tolist() == [1, 1]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_images_are_grey_when_all_files_are(tmp_path, mode):
    draw(tmp_path, "a/1.png", mode="L")
    draw(tmp_path, "b/1.png", mode="L", value=0)
    if mode != "L":
        deep = mode.startswith("I")
        Image.new(mode, (6, 5), 65535 if deep else 1 if mode == "1" else (255, 255)).save(tmp_path / "a" / "1.png")
    images = read(tmp_path, "train", SMALL)
    assert images.shape == (1, 4, 4)
    assert (images.mean, images.std) == ((0.0,), (1.0,))
    assert images.images[:, 0, 0, 0].tolist() == [255, 0]


def test_one_colour_file_in_any_split_makes_all_splits_colour(tmp_path):
    """Else a model trained on one split could not read the next."""
    draw(tmp_path, "train/a/1.png", "train/b/1.png", mode="L")
    draw(tmp_path, "test/c/1.png", "test/d/1.png")
    assert read(tmp_path, "train", SMALL).shape == (3, 4, 4)


def test_inverting_and_turning(tmp_path):
    draw(tmp_path, "a/1.png", "b/1.png", mode="L")
    images = read(tmp_path, "train", ReadOptions(image_size=4, invert=True, rotations=True))
    assert (images.images == 0).all()
    assert len(images) == 8


@pytest.mark.parametrize("val", ["val", "validation", "valid", "Val"])
def test_split_folders_divide_the_classes(tmp_path, val):
    draw(
        tmp_path,
        *(f"{split}/{name}/1.png" for split in ("train", val, "test") for name in (f"{split} a", f"{split} b")),
    )
    for split, folder in (("train", "train"), ("val", val), ("test", "test")):
        assert read(tmp_path, split, SMALL).classes == (f"{folder} a", f"{folder} b")
    assert len(read(tmp_path, "all", SMALL)) == 6


def test_all_joins_classes_of_one_name(tmp_path):
    draw(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "test/x/y/1.png")
    images = read(tmp_path, "all", SMALL)
    assert images.classes == ("a", "b", "x/y")
    assert images.counts.tolist() == [2, 1, 1]


def test_classes_of_two_splits_are_named_in_a_warning(tmp_path, caplog):
    """The layout of ordinary classification; here the classes of a test should be new."""
    draw(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png")
    assert read(tmp_path, "test", SMALL).classes == ("a", "c")
    assert f"{tmp_path}: a in more than one split" in caplog.text


def test_a_class_of_two_splits_is_named_however_it_is_spelled(tmp_path, caplog):
    """é as one character, and as e with an accent."""
    draw(tmp_path, "train/\u00e9/1.png", "train/b/1.png", "test/e\u0301/1.png", "test/c/1.png")
    read(tmp_path, "train", SMALL)
    assert "\u00e9 in more than one split" in caplog.text


@pytest.mark.parametrize("count", [5, 12])
def test_a_seed_divides_the_classes(tmp_path, count):
    """Guards: disjoint splits that are everything, a fifth each for val and test, and another seed, other classes."""
    draw(tmp_path, *(f"{k}/1.png" for k in range(count)))
    options = replace(SMALL, split_seed=1)
    found = {split: set(split_classes(tmp_path, class_files(tmp_path), split, 1)) for split in SPLITS}
    fifth = -(-count // 5)
    assert {split: len(found[split]) for split in SPLITS} == {
        "all": count,
        "train": count - 2 * fifth,
        "val": fifth,
        "test": fifth,
    }
    assert found["train"] | found["val"] | found["test"] == found["all"]
    assert read(tmp_path, "train", options).classes == tuple(sorted(found["train"]))
    others = [set(split_classes(tmp_path, class_files(tmp_path), "test", seed)) for seed in range(2, 12)]
    assert any(other != found["test"] for other in others)


def test_a_seed_does_not_divide_what_is_divided(tmp_path):
    draw(tmp_path, "train/a/1.png", "train/b/1.png", "test/c/1.png", "test/d/1.png")
    with pytest.raises(InputError, match="is divided by its folders test, train: leave out split_seed=1"):
        read(tmp_path, "train", replace(SMALL, split_seed=1))


def test_without_split_folders_train_is_everything_and_test_is_refused(tmp_path):
    """Accuracy on the classes that are trained on would say nothing about new ones."""
    draw(tmp_path, "a/1.png", "b/1.png")
    assert read(tmp_path, "train", ReadOptions()).classes == read(tmp_path, "all", ReadOptions()).classes
    for split in ("val", "test"):
        with pytest.raises(InputError, match=rf"so its '{split}' classes would be .*by a seed \(--split-seed 0\)"):
            read(tmp_path, split, ReadOptions())


def test_a_class_may_be_called_train(tmp_path):
    draw(tmp_path, "train/1.png", "car/1.png")
    assert read(tmp_path, "train", SMALL).classes == ("car", "train")


def test_loose_images_beside_the_classes_of_a_split_are_no_class(tmp_path):
    draw(tmp_path, "train/preview.png", "train/a/1.png", "train/b/1.png")
    assert read(tmp_path, "train", SMALL).classes == ("a", "b")
    assert read(tmp_path, "all", SMALL).classes == ("a", "b")


def unreadable(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_unreadable_files_are_counted_and_the_first_are_named(tmp_path):
    unreadable(draw(tmp_path, "a/1.png", "b/1.png"), *(f"a/x{number}.png" for number in range(5)))
    with pytest.raises(
        InputError, match=r"5 of 7 images cannot be used: a/x0\.png is empty .*x2.* and 2 more; replace"
    ):
        read(tmp_path, "train", SMALL)


def test_unreadable_files_are_left_out_when_asked_with_a_warning(tmp_path, caplog):
    unreadable(draw(tmp_path, "a/1.png", "b/1.png"), "a/2.png", "empty one/1.png")
    images = read(tmp_path, "train", ReadOptions(image_size=4, skip_unreadable=True))
    assert images.classes == ("a", "b")
    assert "2 of 4 images cannot be used: a/2.png is empty (0 bytes), empty one/1.png is empty" in caplog.text
    assert "nothing is left of class empty one; they are left out" in caplog.text


def test_unreadable_files_have_no_say_in_colour(tmp_path):
    unreadable(draw(tmp_path, "a/1.png", "b/1.png", mode="L"), "a/2.png")
    assert read(tmp_path, "train", ReadOptions(image_size=4, skip_unreadable=True)).shape == (1, 4, 4)


def test_links_inside_the_folder_are_followed(tmp_path):
    draw(tmp_path / "root", "a/1.png", "b/1.png")
    (tmp_path / "root/b/2.png").symlink_to("../a/1.png")
    (tmp_path / "alias").symlink_to("root")
    for root in (tmp_path / "root", tmp_path / "alias"):
        assert read(root, "train", SMALL).counts.tolist() == [1, 2]


@pytest.mark.parametrize("target", ["../../outside/secret.png", "../../outside", "..", "../a"])
def test_links_out_of_the_folder_and_to_folders_are_refused_by_name(tmp_path, target):
    draw(tmp_path, "root/a/1.png", "root/b/1.png", "outside/secret.png")
    (tmp_path / "root/b/link.png").symlink_to(target)
    with pytest.raises(InputError, match=rf"b/link\.png is a symbolic link to {target}"):
        read(tmp_path / "root", "train", SMALL)


@pytest.mark.parametrize("target", ["gone.png", "link.png"])
def test_links_to_nothing_are_unreadable(tmp_path, target):
    """To nothing or to themselves; `sources` leaves them out, since they have neither size nor time."""
    draw(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a/link.png").symlink_to(target)
    with pytest.raises(InputError, match=r"a/link\.png cannot be read"):
        read(tmp_path, "train", SMALL)
    assert sources(tmp_path) == [tmp_path / "a/1.png", tmp_path / "b/1.png"]


def test_what_cannot_be_a_set_of_classes_is_one_line(tmp_path):
    (tmp_path / "empty/a").mkdir(parents=True)
    draw(tmp_path, "loose/1.png", "one/a/1.png", "mixed/train/a/1.png", "mixed/other/1.png", "halves/train/a/1.png")
    cases = {
        "none": ("train", "none is not a folder"),
        "loose/1.png": ("train", r"1\.png is a file, not a folder"),
        "empty": ("train", "no class folders \\(and 0 images"),
        "loose": ("train", "no class folders \\(and 1 images"),
        "one": ("train", r"classes with readable images: 1 \('a'\), but a task needs at least 2"),
        "mixed": ("train", "holds images in train and also in other: move these"),
        "halves": ("val", "has folders train, but none for 'val'"),
        "one/": ("holdout", "has no split 'holdout', only all, train, val, test"),
    }
    for folder, (split, message) in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            read(tmp_path / folder, split, SMALL)
        assert "\n" not in str(caught.value)


def test_a_folder_of_nothing_readable_is_one_line(tmp_path):
    unreadable(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(InputError, match="nothing is left of class a, b"):
        read(tmp_path, "train", SMALL)
    with pytest.raises(InputError, match=r"classes with readable images: 0 \(none\)"):
        read(tmp_path, "train", ReadOptions(image_size=4, skip_unreadable=True))


def test_sources_are_all_images_of_all_splits(tmp_path):
    draw(tmp_path, "train/a/1.png", "train/b/1.png", "test/c/1.png")
    names = [file.relative_to(tmp_path).as_posix() for file in sources(tmp_path)]
    assert names == ["test/c/1.png", "train/a/1.png", "train/b/1.png"]


def test_order_and_pixels_do_not_depend_on_when_threads_finish(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, 300).tolist()
    for number, value in enumerate(values):
        draw(tmp_path, f"a/{number:03d}.png", mode="L", value=value)
    draw(tmp_path, "b/1.png", mode="L")
    assert read(tmp_path, "train", SMALL).images[:300, 0, 0, 0].tolist() == values
