"""Images by class, their digest, and the cache that may never change what is read."""

import logging

import jaxtyping
import numpy as np
import pytest
import torch

from metacontrast.data.cache import cached
from metacontrast.data.image_format import ImageFormat
from metacontrast.data.images import ClassImages, group_by_class, images_from_arrays
from metacontrast.errors import InputError


def images_of(*counts: int, name: str = "made/train", channels: int = 1) -> ClassImages:
    """Class k holds `counts[k]` images of 2 × 2 pixels, all of value k."""
    return group_by_class(
        name, [(f"class{k}", np.full((n, channels, 2, 2), k, np.uint8)) for k, n in enumerate(counts)]
    )


class Builder:
    """Counts how often the images had to be built."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> ClassImages:
        self.calls += 1
        return images_of(2, 3)


def test_every_class_owns_the_rows_between_its_borders():
    images = images_of(2, 3, 1)
    assert len(images) == 3
    assert images.shape == (1, 2, 2)
    assert images.starts.tolist() == [0, 2, 5, 6]
    assert images.counts.tolist() == [2, 3, 1]


def test_selecting_classes_keeps_their_order_names_and_pixels():
    chosen = images_of(2, 3, 1).select([2, 0], name="few")
    assert (chosen.name, chosen.classes) == ("few", ("class2", "class0"))
    assert chosen.starts.tolist() == [0, 1, 3]
    assert chosen.images[:, 0, 0, 0].tolist() == [2, 0, 0]


def test_pixels_are_shown_as_x_over_255_less_mean_by_std():
    images = group_by_class("m", [("a", np.full((1, 2, 1, 1), 255, np.uint8))], mean=(0.5, 0.0), std=(0.25, 2.0))
    assert images.pixels(torch.tensor([0])).flatten().tolist() == [2.0, 0.5]


def test_without_mean_and_std_pixels_lie_between_0_and_1():
    images = group_by_class("m", [("a", np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1))])
    shown = images.normalize(images.images)
    assert shown.dtype == torch.float32
    torch.testing.assert_close(shown.flatten(), torch.tensor([0.0, 0.2, 1.0]))
    assert images.images.flatten().tolist() == [0, 51, 255], "the stored images must not change"


@pytest.mark.parametrize(
    "other",
    [images_of(3, 2), images_of(2, 3, channels=3), images_of(2, 3).select([1, 0])],
    ids=["borders", "channels", "order"],
)
def test_the_digest_tells_sets_apart(other):
    assert images_of(2, 3).digest == images_of(2, 3, name="another name").digest
    assert images_of(2, 3).digest != other.digest


def test_class_names_that_look_the_same_are_refused():
    one = np.zeros((1, 1, 1, 1), np.uint8)
    with pytest.raises(InputError, match="are the same name; rename one"):
        group_by_class("m", [("caf\u00e9", one), ("cafe\u0301", one)])


class NotAvailable:
    """As pandas has it: what it is compared to is neither true nor false."""

    __hash__ = object.__hash__

    def __ne__(self, other):
        return self

    __eq__ = __ne__  # type: ignore[assignment]

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    def __repr__(self):
        return "<NA>"


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        (["a", NotAvailable(), "b", "a"], "a label is <NA>: give every image a label"),
        ([1.0, float("nan"), 2.0, float("nan")], "a label is nan: give every image a label"),
        (["a", None, "b", "a"], "a label is None: give every image a label"),
        (["a", float("nan"), "b", "a"], "a label is nan"),
        ([1, "1", 1, "1"], "class names '1' and '1' are the same name"),
        ([[1], [2], [1], [2]], "not hashable"),
        ([1, 2, 3], "4 images and 3 labels"),
    ],
    ids=str,
)
def test_labels_that_name_no_class_are_refused(labels, part):
    with pytest.raises(InputError, match=part):
        images_from_arrays(np.zeros((4, 2, 2), np.uint8), labels)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, 10, 9], ("9", "10")),
        (np.array([10, 9, 10, 9]), ("9", "10")),
        (torch.tensor([10, 9, 10, 9]), ("9", "10")),
        (["b", "a", "b", "a"], ("a", "b")),
        ([2**63 + 2, -1, 2**63 + 2, -1], ("-1", str(2**63 + 2))),
    ],
    ids=str,
)
def test_arrays_are_grouped_by_label_in_its_order(labels, classes):
    pixels = np.arange(4, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    images = images_from_arrays(pixels, labels)
    assert images.classes == classes
    assert images.images[:, 0, 0, 0].tolist() == [1, 3, 0, 2]


def test_no_classes_and_borders_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="m has no classes"):
        group_by_class("m", [])
    with pytest.raises(InputError, match="1 images, 1 class names and 3 class borders do not fit"):
        ClassImages("m", torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1, 1]), ("a",))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"images": torch.zeros(4, 1, 2, 2)}, "images are torch.float32, but must be uint8"),
        ({"starts": torch.tensor([0, 5, 4])}, "class borders must begin at 0 and never fall"),
        ({"starts": torch.tensor([1, 2, 4])}, "class borders must begin at 0 and never fall"),
        ({"classes": ("a", "a")}, "two classes have one name"),
        ({"std": (0.0,)}, "deviations must be above 0"),
        ({"std": (float("nan"),)}, "must be a tuple of 1 or 1 numbers"),
        ({"mean": (0.1, 0.2)}, "must be a tuple of 1 or 1 numbers"),
        ({"mean": 0.5}, "must be a tuple of 1 or 1 numbers"),
    ],
)
def test_sets_that_no_model_could_read_are_refused(changes, part, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for those who check no types
    values = {"images": torch.zeros(4, 1, 2, 2, dtype=torch.uint8), "starts": torch.tensor([0, 2, 4])}
    with pytest.raises(InputError, match=part):
        ClassImages(**{"name": "m", "classes": ("a", "b")} | values | changes)


@pytest.mark.parametrize("changes", [{"channels": 2}, {"size": 0}, {"size": -3}, {"std": (0.0,)}, {"mean": (0.1, 0.2)}])
def test_formats_that_no_image_has_are_refused(changes):
    with pytest.raises(InputError):
        ImageFormat(**{"channels": 3, "size": 8} | changes)


def test_arrays_of_several_sizes_are_refused_in_one_line():
    with pytest.raises(InputError, match="images differ in size"):
        images_from_arrays([np.zeros((2, 2), np.uint8), np.zeros((3, 3), np.uint8)], ["a", "b"])


def test_a_second_reading_comes_from_the_cache(tmp_path):
    build = Builder()
    first = cached(tmp_path, "made/train", "v1", build)
    second = cached(tmp_path, "made/train", "v1", build)
    assert build.calls == 1
    assert first.digest == second.digest == images_of(2, 3).digest
    assert second.classes == ("class0", "class1")


def test_changed_sources_are_read_again(tmp_path):
    build = Builder()
    cached(tmp_path, "made", "v1", build)
    cached(tmp_path, "made", "v2", build)
    cached(tmp_path, "made", "v2", build)
    assert build.calls == 2


@pytest.mark.parametrize("place", [0, 40, -1], ids=["length", "header", "pixel"])
def test_a_cache_file_with_a_flipped_byte_is_built_again(tmp_path, place):
    build = Builder()
    cached(tmp_path, "made", "v1", build)
    (file,) = tmp_path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(content)
    assert cached(tmp_path, "made", "v1", build).digest == images_of(2, 3).digest
    assert build.calls == 2
    cached(tmp_path, "made", "v1", build)
    assert build.calls == 2, "the damaged file must have been replaced"


def test_what_was_said_of_the_images_is_said_again_of_the_cached_ones(tmp_path, caplog):
    def build() -> ClassImages:
        logging.getLogger("metacontrast").warning("%s is in two splits", "a")
        return images_of(2, 3)

    for _ in range(3):
        caplog.clear()
        cached(tmp_path, "made", "v1", build)
        assert [record.getMessage() for record in caplog.records] == ["a is in two splits"]


def test_what_a_killed_process_left_in_the_cache_is_removed(tmp_path):
    left = tmp_path / ".made.safetensors.abc.part"
    left.write_bytes(b"half of it")
    cached(tmp_path, "made", "v1", Builder())
    assert not left.exists()


def test_a_cut_cache_file_is_built_again(tmp_path):
    build = Builder()
    cached(tmp_path, "made", "v1", build)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-5])
    cached(tmp_path, "made", "v1", build)
    assert build.calls == 2


def test_a_cache_folder_that_cannot_be_made_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    build = Builder()
    for _ in range(2):
        assert cached(tmp_path / "file" / "cache", "made", "v1", build).digest == images_of(2, 3).digest
    assert build.calls == 2
