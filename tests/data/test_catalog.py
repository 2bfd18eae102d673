"""The data sets by name: loading, the cache between, and messages that say what to do."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metacontrast.data import ReadOptions, catalog, load_dataset
from metacontrast.data.catalog import DATASETS, Reader, check_dataset, get_dataset
from metacontrast.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Two classes of three grey images."""
    for c, name in enumerate(("cat", "dog")):
        (tmp_path / "own" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("L", (8, 8), 40 * c + k).save(tmp_path / "own" / name / f"{k}.png")
    return tmp_path / "own"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METACONTRAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_described_and_has_a_reader(name):
    spec = DATASETS[name]
    assert spec.name == name
    assert spec.splits == ("train", "val", "test")
    assert all((spec.description, spec.source, spec.licence, spec.shape))
    assert "\n" not in spec.description
    assert set(spec.options) <= set(ReadOptions.__dataclass_fields__)
    assert isinstance(spec.reader, Reader)


def test_an_unknown_name_is_told_with_the_nearest_and_all_known():
    with pytest.raises(InputError, match=r"no data set 'omnglot': did you mean 'omniglot'.* there are glyphs, omni"):
        load_dataset("omnglot")
    with pytest.raises(InputError, match="no data set 'x': there are glyphs"):
        load_dataset("x")


def test_an_unknown_split_is_told_with_those_that_are():
    with pytest.raises(InputError, match="glyphs has no split 'dev', only train, val, test"):
        load_dataset("glyphs", "dev")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar-fs", ReadOptions(invert=True), "invert=True does not apply to cifar-fs: leave it out"),
        ("glyphs", ReadOptions(split_scheme="released"), "split_scheme='released' does not apply to glyphs"),
        ("glyphs", ReadOptions(rotations=True), "rotations=True does not apply to glyphs"),
        ("omniglot", ReadOptions(image_size=0), "image_size=0 is not between 1 and 1024"),
        ("omniglot", ReadOptions(image_size=100_000), "image_size=100000 is not between"),
    ],
)
def test_options_that_do_not_apply_are_told(name, options, message):
    with pytest.raises(InputError, match=message):
        load_dataset(name, options=options)


@pytest.mark.parametrize("name", ["omniglot", "cifar-fs", "mini-imagenet"])
def test_a_missing_set_is_told_with_the_folder_in_one_line(tmp_path, name):
    with pytest.raises(InputError, match=str(tmp_path)) as caught:
        load_dataset(name, root=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [(None,), (Path("omniglot"),), ("glyphs", "train", None, {"image_size": 8})])
def test_arguments_of_another_type_are_one_line(arguments):
    with pytest.raises(InputError, match=r"name it by text|must be ReadOptions"):
        load_dataset(*arguments)


def test_the_root_is_the_argument_else_the_variable_else_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path))
    assert catalog.find_dataset("omniglot")[1] == tmp_path
    assert catalog.find_dataset("omniglot", "elsewhere")[1] == Path("elsewhere")
    monkeypatch.setenv("METACONTRAST_DATA", "")
    assert catalog.find_dataset("omniglot")[1].parts[-2:] == ("metacontrast", "data")


def test_a_folder_is_a_data_set(folder, cache):
    images = load_dataset(f"folder:{folder}")
    assert images.classes == ("cat", "dog")
    assert images.counts.tolist() == [3, 3]


def test_the_second_time_images_come_from_the_cache(folder, cache, monkeypatch):
    first = load_dataset(f"folder:{folder}")
    reader = catalog.FOLDER.reader
    monkeypatch.setattr(reader, "read", lambda *_: pytest.fail("read again"))
    second = load_dataset(f"folder:{folder}")
    assert second.digest == first.digest
    assert len(list(cache.glob("[!.]*"))) == 1


def test_changed_added_and_removed_files_are_noticed(folder, cache):
    digests = [load_dataset(f"folder:{folder}").digest]
    changed = folder / "cat" / "0.png"
    before = changed.stat()
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(changed)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    digests.append(load_dataset(f"folder:{folder}").digest)
    shutil.copy(changed, folder / "cat" / "7.png")
    digests.append(load_dataset(f"folder:{folder}").digest)
    (folder / "cat" / "1.png").unlink()
    digests.append(load_dataset(f"folder:{folder}").digest)
    assert len(set(digests)) == 4


def test_options_and_splits_have_cache_files_of_their_own(cache):
    sizes = [ReadOptions(image_size=size) for size in (8, 12)]
    assert [load_dataset("glyphs", "val", options=options).shape for options in sizes] == [(1, 8, 8), (1, 12, 12)]
    assert load_dataset("glyphs", "val", options=sizes[0]).shape == (1, 8, 8)
    assert len(list(cache.glob("[!.]*"))) == 2


def test_nothing_is_written_without_the_cache_nor_ever_beside_the_data(folder, cache):
    before = sorted(folder.rglob("*"))
    load_dataset(f"folder:{folder}", cache=False)
    assert not cache.exists()
    load_dataset(f"folder:{folder}")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow  # the command does it in `test_commands.py`
def test_checking_reports_every_split_and_its_digest():
    report = check_dataset("glyphs")
    assert list(report["splits"]) == ["train", "val", "test"]
    assert report["splits"]["val"]["digest"] == load_dataset("glyphs", "val").digest
    assert report["splits"]["val"]["images"] == 20 * report["splits"]["val"]["classes"]
    assert report["verified"]
    assert report["problem"] is None


def test_checking_a_damaged_set_reports_the_problem(tmp_path):
    for part in ("images_background", "images_evaluation"):
        (tmp_path / f"{part}.zip").write_bytes(b"not a zip")
    report = check_dataset("omniglot", tmp_path)
    assert not report["verified"]
    assert "images_background.zip is not a readable zip archive" in report["problem"]


def test_checking_a_set_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"no images_background\.zip"):
        check_dataset("omniglot", tmp_path)


def test_getting_a_set_that_is_there_fetches_nothing(folder):
    assert get_dataset("glyphs").is_dir()
    assert get_dataset(f"folder:{folder}")


def test_a_set_that_may_not_be_fetched_is_told(tmp_path):
    with pytest.raises(InputError, match=f"mini-imagenet cannot be fetched .* put it in {tmp_path}"):
        get_dataset("mini-imagenet", tmp_path)


def test_getting_a_damaged_set_fetches_it(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(DATASETS["omniglot"].reader, "get", lambda root: fetched.append(root) or root)
    get_dataset("omniglot", tmp_path)
    assert fetched == [tmp_path]
