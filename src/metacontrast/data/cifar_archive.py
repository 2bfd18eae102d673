"""CIFAR-100 as its authors publish it, a tar file of Python pickles, turned into the layout of CIFAR-FS."""

import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metacontrast.data import safe_pickle
from metacontrast.data.download import fetch
from metacontrast.errors import InputError
from metacontrast.files import atomic_path

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
PARTS = ("train", "test")
LARGEST_PICKLE = 2**28


def get(folder: Path, splits: Mapping[str, Sequence[str]]) -> Path:
    """Fetch CIFAR-100 and write `folder/cifar100.zip` with these lists of classes; return its path."""
    published = fetch(URL, folder / "cifar-100-python.tar.gz", MD5)
    return convert(published, folder / "cifar100.zip", splits)


def convert(published: Path, path: Path, splits: Mapping[str, Sequence[str]]) -> Path:
    """Write the images in `cifar-100-python.tar.gz` as PNG files by class into the archive `path`.

    Raises:
        InputError: the file is damaged, is something else, or its pickles ask for more than plain data.
    """
    images = read_images(published)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for split, classes in splits.items():
            archive.writestr(f"cifar100/splits/bertinetto/{split}.txt", "\n".join(classes) + "\n")
        for name, image in images:
            archive.writestr(f"cifar100/data/{name}", _png(image))
    return path


def read_images(published: Path) -> list[tuple[str, NDArray[np.uint8]]]:
    """`CLASS/NAME_PART_NUMBER.png` and pixels `(height, width, channel)` of every image in the published file."""
    try:
        with tarfile.open(published) as archive, TemporaryDirectory() as folder:
            pickles = {name: _read_pickle(archive, name, Path(folder)) for name in ("meta", *PARTS)}
        return list(_named_images(pickles))
    except (OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, tarfile.TarError) as error:
        raise InputError(f"{published} is not CIFAR-100 as published: {error}; delete it and fetch {URL}") from error


def _named_images(pickles: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    classes = pickles["meta"]["fine_label_names"]
    for part in PARTS:
        batch = pickles[part]
        images = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labelled = zip(batch["fine_labels"], batch["filenames"], images, strict=True)
        for number, (label, name, image) in enumerate(labelled):
            yield f"{classes[label]}/{Path(name).stem}_{part}_{number:05d}.png", image


def _read_pickle(archive: tarfile.TarFile, name: str, folder: Path) -> Any:
    member = archive.getmember(f"cifar-100-python/{name}")
    file = archive.extractfile(member)
    if file is None or not member.isreg() or member.size > LARGEST_PICKLE:
        raise tarfile.TarError(f"{member.name} is not a file of at most {LARGEST_PICKLE} bytes")
    (folder / name).write_bytes(file.read())
    return safe_pickle.load(folder / name)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
