"""Archives from nobody knows where: nothing leads out of them, nothing in them is larger than an image."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from metacontrast.data import cifar_fs, published
from metacontrast.data.published import open_tree
from metacontrast.errors import InputError


def archive_of(path: Path, name: str, content: bytes = b"x", kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr(zipfile.ZipInfo(name) if kind == zipfile.ZIP_STORED else name, content)
    return path


def read_all(path: Path) -> list[bytes]:
    with open_tree(path) as files:
        return [files.read(name) for name in files.names]


def renamed(path: Path, old: bytes, new: bytes) -> Path:
    """The archive with another name in it, which zipfile would not write."""
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


@pytest.mark.parametrize("name", [b"../xx", b"/xxxx", b"..\\xx", b"\\xxxx", b"C:/xx", b"a/../../x", b"\x00xxxx"])
def test_names_that_point_outside_are_refused(name, tmp_path):
    path = renamed(archive_of(tmp_path / "a.zip", "n" * len(name)), b"n" * len(name), name)
    with pytest.raises(InputError, match="which points outside the archive"):
        read_all(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("images/a.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match=r"holds a link, 'images/a\.png'"):
        read_all(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_file_that_unpacks_to_too_much_is_refused_unread(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "LARGEST_FILE", 10_000)
    path = archive_of(tmp_path / "a.zip", "a.png", bytes(10_001), kind)
    with pytest.raises(InputError, match=r"a\.png unpacks to 10001 bytes, more than the 10000"):
        read_all(path)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_file_that_lies_about_its_size_is_not_unpacked_further(kind, tmp_path):
    """The size in the directory of the archive is a hundred bytes; ten million would come."""
    path = archive_of(tmp_path / "a.zip", "a.png", bytes(10_000_000), kind)
    renamed(path, (10_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    with pytest.raises(InputError, match=r"a\.png is damaged"):
        read_all(path)


def test_damage_that_a_fuzzer_found(tmp_path):
    """An LZMA stream that is none; a name that is not text. A name that begins with a zero byte is none: see above."""
    path = archive_of(tmp_path / "a.zip", "a.png", b"x" * 100, zipfile.ZIP_LZMA)
    whole = path.read_bytes()
    begin = whole.index(b"a.png") + len("a.png")
    path.write_bytes(whole[: begin + 4] + b"\xff" * 9 + whole[begin + 13 :])
    with pytest.raises(InputError, match=r"a\.png is damaged"):
        read_all(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ü.png", b"x")
    renamed(path, "ü.png".encode(), b"\xff\xff.png")
    with pytest.raises(InputError, match="is not a readable zip archive"):
        read_all(path)


def test_links_in_place_of_the_pickles_of_cifar_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        file = tarfile.TarInfo("other")
        archive.addfile(file, io.BytesIO())
        link = tarfile.TarInfo("cifar-100-python/meta")
        link.type, link.linkname = tarfile.SYMTYPE, "../other"
        archive.addfile(link)
    with pytest.raises(InputError, match="is not CIFAR-100 as published: cifar-100-python/meta is not a file"):
        cifar_fs.read_images(tmp_path / "a.tar")
