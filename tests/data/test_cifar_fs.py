"""CIFAR-FS: 64/16/20 classes of 600 photographs, from an archive, a folder or CIFAR-100 as published."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from metacontrast.data import cifar_fs
from metacontrast.data.decode import ReadOptions
from metacontrast.data.published import split_list
from metacontrast.errors import InputError

PLAIN = ReadOptions()
FEW = {"train": 2, "val": 1, "test": 1}
SPLITS = {"train": ("wolf", "apple"), "val": ("bear",), "test": ("rose",)}
FINE = ["apple", "bear", "rose", "wolf"]


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (value, 0, 255)).save(buffer, "PNG")
    return buffer.getvalue()


def small_files(with_lists: bool = True) -> dict[str, bytes]:
    """Four classes of three images; the k-th image of the c-th class has red = 10 c + k."""
    files = {f"cifar100/data/{name}/{name}_{k}.png": png(10 * c + k) for c, name in enumerate(FINE) for k in range(3)}
    if with_lists:
        lists = {f"cifar100/splits/bertinetto/{s}.txt": "\n".join(n).encode() for s, n in SPLITS.items()}
        files |= lists
    return files


def write_zip(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "cifar100.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return folder


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def small(monkeypatch):
    """Three images per class and four classes take the place of the real numbers."""
    monkeypatch.setattr(cifar_fs, "CLASSES", FEW)
    monkeypatch.setattr(cifar_fs, "IMAGES", 3)


@pytest.mark.parametrize("write", [write_zip, write_folder])
@pytest.mark.parametrize("folder", [".", "cifar-fs"])
def test_archive_and_folder_give_the_same_images(small, tmp_path, write, folder):
    write(tmp_path / folder, small_files())
    images = cifar_fs.read(tmp_path, "train", PLAIN)
    assert images.classes == ("apple", "wolf")
    assert images.images.shape == (6, 3, 32, 32)
    assert images.images[:, 0, 5, 5].tolist() == [0, 1, 2, 30, 31, 32]
    assert images.images[:, 2].unique().tolist() == [255]
    assert images.mean == (0.5071, 0.4866, 0.4409)


def test_without_lists_beside_the_images_those_of_the_package_are_used(small, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar_fs, "split_list", lambda name: SPLITS[name.removeprefix("cifar_fs_")])
    write_folder(tmp_path, small_files(with_lists=False))
    assert cifar_fs.read(tmp_path, "val", PLAIN).classes == ("bear",)


@pytest.mark.parametrize(("split", "names"), [("test", "wolf"), ("train", "wolf apple wolf")])
def test_lists_that_share_or_repeat_a_class_are_refused(small, tmp_path, split, names):
    files = small_files() | {f"cifar100/splits/bertinetto/{split}.txt": names.encode()}
    with pytest.raises(InputError, match="the lists of its splits name 'wolf' more than once"):
        cifar_fs.read(write_zip(tmp_path, files), "train", PLAIN)


def test_images_are_resized_on_request(small, tmp_path):
    write_zip(tmp_path, small_files())
    assert cifar_fs.read(tmp_path, "val", ReadOptions(image_size=16)).shape == (3, 16, 16)


def test_rotations_are_further_classes(small, tmp_path):
    write_zip(tmp_path, small_files())
    images = cifar_fs.read(tmp_path, "val", ReadOptions(rotations=True))
    assert images.classes == tuple(f"bear{end}" for end in ("", "/rot090", "/rot180", "/rot270"))


def test_a_missing_image_is_counted(small, tmp_path):
    files = small_files()
    del files["cifar100/data/wolf/wolf_1.png"]
    with pytest.raises(InputError, match=r"2 of 2 classes and 5 of 6 images found \(wolf has 2 of 3\)"):
        cifar_fs.read(write_zip(tmp_path, files), "train", PLAIN)


def test_a_missing_class_is_counted(small, tmp_path):
    files = {name: content for name, content in small_files().items() if "/wolf/" not in name}
    with pytest.raises(InputError, match="1 of 2 classes and 3 of 6 images found; run `metacontrast data get"):
        cifar_fs.read(write_zip(tmp_path, files), "train", PLAIN)


def test_a_set_that_is_not_there_is_told_with_the_way_to_get_it(tmp_path):
    with pytest.raises(InputError, match=r"no cifar100.zip .* in .*METACONTRAST_DATA"):
        cifar_fs.read(tmp_path, "train", PLAIN)


def test_the_published_lists_are_64_16_and_20_different_classes():
    lists = [split_list(f"cifar_fs_{split}") for split in cifar_fs.CLASSES]
    assert [len(names) for names in lists] == [64, 16, 20]
    assert len({name for names in lists for name in names}) == 100


def batch(numbers: range) -> dict[bytes, object]:
    """Image i belongs to class i mod 4 and has red = i."""
    data = np.zeros((len(numbers), 3, 1024), np.uint8)
    data[:, 0] = np.array(numbers)[:, None]
    return {
        b"filenames": [f"picture_s_{i:06d}.png".encode() for i in numbers],
        b"fine_labels": [i % 4 for i in numbers],
        b"data": data.reshape(len(numbers), 3072),
    }


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 did, in which CIFAR-100 was published: its strings had no encoding."""

    def save_string(self, text: bytes) -> None:
        self.write(pickle.BINSTRING + len(text).to_bytes(4, "little") + text)
        self.memoize(text)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, bytes: save_string}


def published_archive(path: Path, train: object | None = None) -> Path:
    """CIFAR-100 as published, with three images of each of four classes."""
    batches = {
        "meta": {b"fine_label_names": [name.encode() for name in FINE]},
        "train": train or batch(range(8)),
        "test": batch(range(8, 12)),
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in batches.items():
            data = io.BytesIO()
            Python2Pickler(data, protocol=2).dump(content)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = data.tell()
            data.seek(0)
            archive.addfile(member, data)
    return path


def test_cifar_100_as_published_becomes_cifar_fs(small, tmp_path):
    published = published_archive(tmp_path / "cifar-100-python.tar.gz")
    cifar_fs.convert(published, tmp_path / "cifar-fs" / "cifar100.zip", SPLITS)
    images = cifar_fs.read(tmp_path, "train", PLAIN)
    assert images.classes == ("apple", "wolf")
    assert sorted(images.images[:3, 0, 0, 0].tolist()) == [0, 4, 8]
    assert sorted(images.images[3:, 0, 9, 9].tolist()) == [3, 7, 11]


def test_getting_the_set_fetches_the_published_archive_and_converts_it(small, tmp_path, monkeypatch):
    fetched = []

    def fetch(url: str, path: Path, md5: str) -> Path:
        fetched.append(url)
        path.parent.mkdir()
        return published_archive(path)

    monkeypatch.setattr(cifar_fs, "fetch", fetch)
    monkeypatch.setattr(cifar_fs, "split_list", lambda name: SPLITS[name.removeprefix("cifar_fs_")])
    cifar_fs.get(tmp_path)
    assert fetched == ["https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"]
    assert cifar_fs.read(tmp_path, "test", PLAIN).classes == ("rose",)


class Planted:
    """Unpickled carelessly, this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return exec, (f"open({str(self.path)!r}, 'w')", "")


def test_code_planted_in_the_published_pickles_does_not_run(tmp_path):
    trace = tmp_path / "trace"
    published = published_archive(tmp_path / "c.tar.gz", train=Planted(trace))
    with pytest.raises(InputError, match="is not CIFAR-100 as published"):
        cifar_fs.convert(published, tmp_path / "cifar100.zip", SPLITS)
    assert not trace.exists()
    assert not (tmp_path / "cifar100.zip").exists()


@pytest.mark.parametrize("train", [{b"data": 3}, [1, 2], {**batch(range(4)), b"fine_labels": [99] * 4}])
def test_pickles_of_something_else_are_told(tmp_path, train):
    published = published_archive(tmp_path / "c.tar.gz", train=train)
    with pytest.raises(InputError, match="is not CIFAR-100 as published"):
        cifar_fs.read_images(published)


def test_an_error_page_in_place_of_the_archive_is_told(tmp_path):
    (tmp_path / "c.tar.gz").write_text("<html>moved</html>")
    with pytest.raises(InputError, match="is not CIFAR-100 as published"):
        cifar_fs.read_images(tmp_path / "c.tar.gz")


def test_the_real_set_is_complete(real_data):
    images = cifar_fs.read(real_data, "test", PLAIN)
    assert images.images.shape == (12000, 3, 32, 32)
    assert set(images.counts) == {600}
    shown = images.pixels(images.starts[:-1])
    assert abs(float(shown.mean())) < 0.5
