"""Omniglot: the published splits, and nothing but the published pixels."""

import io
import zipfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metacontrast.data import load_dataset, omniglot
from metacontrast.data.decode import ReadOptions
from metacontrast.data.published import open_tree
from metacontrast.errors import InputError

PLAIN = ReadOptions()
LISTS = {
    "train": ("images_background/Aa/character01", "images_evaluation/Cc/character01"),
    "val": ("images_background/Bb/character01",),
    "test": ("images_evaluation/Cc/character02",),
}


def png(ink: int, side: int = 105) -> bytes:
    """Paper with a row of `ink` dots at the top left."""
    pixels = np.ones((side, side), bool)
    pixels[0, :ink] = False
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def small_files() -> dict[str, bytes]:
    """Four characters of 20 drawings; the k-th drawing of the c-th has 20 c + k dots."""
    names = sorted(name for names in LISTS.values() for name in names)
    return {f"{name}/{c:04d}_{k + 1:02d}.png": png(20 * c + k) for c, name in enumerate(names) for k in range(20)}


def write_zips(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part in omniglot.PARTS:
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for name in files:
                if name.startswith(part):
                    archive.writestr(name, files[name])
    return folder


def write_folders(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A published set of four characters takes the place of the real one."""
    files = small_files()
    root = write_zips(tmp_path / "as-published", files)
    with ExitStack() as stack:
        trees = [stack.enter_context(open_tree(root / f"{part}.zip")) for part in omniglot.PARTS]
        drawings = omniglot.drawings_by_character(trees)
        digests = {name: omniglot.read_characters(LISTS[name], drawings, PLAIN)[1] for name in LISTS}
    monkeypatch.setattr(omniglot, "characters", lambda name: LISTS[name])
    monkeypatch.setattr(omniglot, "DIGESTS", digests)
    return files


@pytest.mark.parametrize("write", [write_zips, write_folders])
@pytest.mark.parametrize("folder", [".", "omniglot", "omniglot/python", "omniglot-py"])
def test_zips_and_folders_are_found_where_people_put_them(small, tmp_path, write, folder):
    write(tmp_path / "root" / folder, small)
    images = omniglot.read(tmp_path / "root", "train", PLAIN)
    assert images.classes == ("Aa/character01", "Cc/character01")
    assert images.images.shape == (40, 1, 28, 28)


def test_ink_is_0_and_paper_255_as_in_the_release(small, tmp_path):
    root = write_zips(tmp_path, small)
    full = ReadOptions(image_size=105)
    images = omniglot.read(root, "val", full).images
    assert images.unique().tolist() == [0, 255]
    assert [(255 - x).sum().item() // 255 for x in images[:3]] == [20, 21, 22]
    inverted = omniglot.read(root, "val", ReadOptions(image_size=105, invert=True)).images
    assert inverted.equal(255 - images)


def test_resizing_is_the_named_filter_of_pillow(small, tmp_path):
    root = write_zips(tmp_path, small)
    with Image.open(io.BytesIO(small["images_background/Bb/character01/0001_01.png"])) as image:
        grey = image.convert("L")
    for name in ("bicubic", "nearest"):
        found = omniglot.read(root, "val", ReadOptions(resample=name)).images[0, 0].numpy()
        assert (found == np.asarray(grey.resize((28, 28), Image.Resampling[name.upper()]))).all()
    assert (
        omniglot.read(root, "val", PLAIN).digest == omniglot.read(root, "val", ReadOptions(resample="bicubic")).digest
    )


def test_rotations_are_further_classes_turned_counterclockwise(small, tmp_path):
    root = write_zips(tmp_path, small)
    images = omniglot.read(root, "val", ReadOptions(image_size=105, rotations=True))
    assert images.classes == tuple(f"Bb/character01{end}" for end in ("", "/rot090", "/rot180", "/rot270"))
    upright, left, down, right = (images.images[20 * k, 0] for k in range(4))
    assert (upright[0, :20] == 0).all()
    assert (left[-20:, 0] == 0).all()
    assert (down[-1, -20:] == 0).all()
    assert (right[:20, -1] == 0).all()


def test_the_released_scheme_joins_train_and_val_in_sorted_order_and_has_no_val(small, tmp_path):
    root = write_zips(tmp_path, small)
    released = ReadOptions(split_scheme="released")
    assert omniglot.read(root, "train", released).classes == ("Aa/character01", "Bb/character01", "Cc/character01")
    assert omniglot.read(root, "test", released).classes == ("Cc/character02",)
    with pytest.raises(InputError, match="no split 'val' with split_scheme='released', only train, test"):
        omniglot.read(root, "val", released)


def test_a_set_that_is_not_there_is_told_with_the_way_to_get_it(tmp_path):
    with pytest.raises(InputError, match=r"no images_background.zip .* in .*`metacontrast data get omniglot`"):
        omniglot.read(tmp_path, "train", PLAIN)


def test_missing_drawings_are_counted(small, tmp_path):
    del small["images_background/Bb/character01/0001_07.png"]
    message = r"4 of 4 characters and 79 of 80 drawings found \(images_background/Bb/character01 has 19 of 20\)"
    with pytest.raises(InputError, match=message):
        omniglot.read(write_zips(tmp_path, small), "train", PLAIN)


def test_missing_characters_are_counted_even_of_another_split(small, tmp_path):
    kept = {name: content for name, content in small.items() if "Bb" not in name}
    with pytest.raises(InputError, match="3 of 4 characters and 60 of 80 drawings"):
        omniglot.read(write_folders(tmp_path, kept), "test", PLAIN)


def test_one_changed_pixel_is_noticed(small, tmp_path):
    small["images_background/Aa/character01/0000_03.png"] = png(3)
    with pytest.raises(InputError, match=r"pixels of the train characters have SHA-256 .*, expected .*data get"):
        omniglot.read(write_zips(tmp_path, small), "train", PLAIN)


def test_a_drawing_of_another_size_is_named(small, tmp_path):
    name = "images_background/Aa/character01/0000_03.png"
    small[name] = png(2, side=28)
    with pytest.raises(InputError, match=f"{name} has 28 × 28 pixels, not 105 × 105"):
        omniglot.read(write_zips(tmp_path, small), "train", PLAIN)


def test_a_drawing_that_is_no_image_is_named(small, tmp_path):
    name = "images_background/Aa/character01/0000_03.png"
    small[name] = b"<html>not found</html>"
    with pytest.raises(InputError, match=f"{name} is not a readable image"):
        omniglot.read(write_zips(tmp_path, small), "train", PLAIN)


def test_a_flipped_byte_in_an_archive_is_named(small, tmp_path):
    root = write_zips(tmp_path, small)
    archive = root / "images_background.zip"
    with zipfile.ZipFile(archive) as opened:
        info = opened.infolist()[4]
    content = bytearray(archive.read_bytes())
    content[info.header_offset + 30 + len(info.filename) + 50] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(InputError, match=f"{info.filename} is damaged .*Bad CRC-32"):
        omniglot.read(root, "train", PLAIN)


def test_a_cut_archive_is_named(small, tmp_path):
    archive = write_zips(tmp_path, small) / "images_evaluation.zip"
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"images_evaluation.zip is not a readable zip archive"):
        omniglot.read(tmp_path, "train", PLAIN)


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "images_background/../../x.png", "C:/x.png", "..\\x.png"])
def test_archives_that_point_outside_themselves_are_refused(small, tmp_path, name):
    root = write_zips(tmp_path, small)
    with zipfile.ZipFile(root / "images_background.zip", "a") as archive:
        archive.writestr(name, png(1))
    with pytest.raises(InputError, match="points outside the archive"):
        omniglot.read(root, "train", PLAIN)


def test_what_a_mac_leaves_in_archives_is_ignored(small, tmp_path):
    small["images_background/Aa/character01/._0000_03.png"] = b"junk"
    small["images_background/Aa/.DS_Store"] = b"junk"
    assert len(omniglot.read(write_folders(tmp_path, small), "train", PLAIN)) == 2


def test_the_published_lists_are_1028_172_and_423_different_characters():
    lists = {name: omniglot.characters(name) for name in omniglot.DIGESTS}
    assert [len(names) for names in lists.values()] == [1028, 172, 423]
    names = [name for some in lists.values() for name in some]
    assert len(set(names)) == 1623
    assert sum(name.startswith("images_background/") for name in names) == 964
    first = sorted(names)[:1200]
    assert sorted(lists["train"] + lists["val"]) == first, "the released split is the first 1,200 sorted paths"


@pytest.mark.parametrize(("split", "classes"), [("train", 1028), ("val", 172), ("test", 423)])
def test_the_real_set_is_complete_and_as_published(real_data, split, classes):
    images = load_dataset("omniglot", split, real_data)
    assert images.images.shape == (20 * classes, 1, 28, 28)
    assert set(images.counts) == {20}
    assert len(set(images.classes)) == classes


def test_the_one_known_flaw_is_still_there(real_data):
    """Braille/character01 has two identical drawings: a set without them is not the published one."""
    images = load_dataset("omniglot", "train", real_data)
    start = int(images.starts[images.classes.index("Braille/character01")])
    assert images.images[start + 2].equal(images.images[start + 18])
