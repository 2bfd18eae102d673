"""Damaged and invented files in every reader: each is read, or refused by `InputError` in one line, and never more.

Every reader starts from a whole file; a case flips, cuts, repeats and inserts bytes in it.
"""

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from classifier_kit import grey_images, tiny_model_folder
from metacontrast import FewShotClassifier
from metacontrast.data import cifar_fs, safe_pickle
from metacontrast.data.cache import cached
from metacontrast.data.decode import decode
from metacontrast.data.mini_imagenet import open_csv, open_parquet, open_pickle
from metacontrast.data.published import open_tree
from metacontrast.errors import InputError
from metacontrast.training import checkpoint, records
from metacontrast.training.authors_checkpoints import AVERAGES, VARIABLES, read_released
from metacontrast.training.checkpoint import load_state
from metacontrast.training.config import config_from_values
from metacontrast.training.records import read_records
from metacontrast.training.run import load_run, read_config
from small_run import SMALL, train_small
from toy_images import numbered_images

CASES = pytest.mark.parametrize("cases", [4, pytest.param(130, marks=pytest.mark.slow)])


class Reader(NamedTuple):
    """A file that is whole, as a function of the folder to write it to, and how it is read from there."""

    write: Callable[[Path], Path]
    read: Callable[[Path], object]


def image(kind: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"image.{kind}")
        return folder / f"image.{kind}"

    return write


def zip_of_images(folder: Path) -> Path:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, "PNG")
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for kind in kinds:
            archive.writestr(f"images/{kind}.png", buffer.getvalue(), kind)
    return folder / "images.zip"


def read_zip(path: Path) -> None:
    with open_tree(path) as tree:
        for name in tree.names:
            tree.open_image(name, "L", 8)


def tar_of_pickles(folder: Path) -> Path:
    batch = {"fine_labels": [0], "filenames": ["a.png"], "data": np.zeros((1, 3072), np.uint8)}
    with tarfile.open(folder / "cifar.tar", "w") as archive:
        for name, value in {"meta": {"fine_label_names": ["a"]}, "train": batch, "test": batch}.items():
            text = pickle.dumps(value, 2)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return folder / "cifar.tar"


def pickled_images(folder: Path) -> Path:
    images = {"image_data": np.zeros((3, 4, 4, 3), np.uint8), "class_dict": {"n01532829": [0, 1, 2]}}
    (folder / "images.pkl").write_bytes(pickle.dumps(images, 2))
    return folder / "images.pkl"


def csv_list(folder: Path) -> Path:
    (folder / "train.csv").write_text("filename,label\na.jpg,n01532829\nb.jpg,n01532829\n")
    return folder / "train.csv"


def parquet_file(folder: Path) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [b"1", b"2"], "label": [0, 1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), folder / "a.parquet")
    return folder / "a.parquet"


def part_of_a_run(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        train_small(folder / "run")
        return folder / "run" / name

    return write


def released_checkpoint(folder: Path) -> Path:
    state = {name: torch.zeros(2) for name in (*VARIABLES, *AVERAGES)}
    state |= {"vars.0": torch.zeros(2, 1, 3, 3), "vars.16": torch.zeros(2, 2)}
    torch.save({"model_state_dict": state}, folder / "a.pt")
    return folder / "a.pt"


def part_of_a_classifier(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        images, labels = grey_images()
        FewShotClassifier(tiny_model_folder(folder / "model")).fit(images, labels).save(folder / "classifier")
        return folder / "classifier" / name

    return write


def image_cache(folder: Path) -> Path:
    cached(folder, "made", "v1", lambda: numbered_images([2, 3]))
    return next(folder.glob("*.safetensors"))


def read_cache(path: Path) -> None:
    found, expected = cached(path.parent, "made", "v1", lambda: numbered_images([2, 3])), numbered_images([2, 3])
    for fact in ("digest", "name", "mean", "std"):
        assert getattr(found, fact) == getattr(expected, fact)


def read_rows(path: Path) -> None:
    listing = open_parquet([path])
    list(listing.items)


READERS = {
    **{kind: Reader(image(kind), lambda path: decode(path, 8)) for kind in ("png", "jpeg", "gif", "bmp", "tiff")},
    "zip": Reader(zip_of_images, read_zip),
    "tar": Reader(tar_of_pickles, cifar_fs.read_images),
    "pickle": Reader(pickled_images, safe_pickle.load),
    "pickle of images": Reader(pickled_images, lambda path: list(open_pickle([path]).items)),
    "csv": Reader(csv_list, lambda path: open_csv([path, path.parent])),
    "parquet": Reader(parquet_file, read_rows),
    "model": Reader(part_of_a_run("model.safetensors"), lambda path: load_run(path.parent)),
    "state": Reader(part_of_a_run("state.safetensors"), lambda path: load_state(path.parent)),
    "configuration": Reader(part_of_a_run("config.json"), lambda path: read_config(path.parent)),
    "records": Reader(part_of_a_run("records.jsonl"), read_records),
    "records of a resumed run": Reader(part_of_a_run("records.jsonl"), lambda path: records.forget_after(path, 1)),
    "released checkpoint": Reader(released_checkpoint, read_released),
    "classifier's text": Reader(part_of_a_classifier("config.json"), lambda path: FewShotClassifier.load(path.parent)),
    "image cache": Reader(image_cache, read_cache),
}


KINDS = ("replace", "insert", "remove", "repeat", "cut")
DAMAGE = st.lists(
    st.tuples(st.sampled_from(KINDS), st.floats(0, 1), st.binary(min_size=1, max_size=16)), min_size=1, max_size=4
)


def damaged(original: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    """The file after changes of the kinds that disks, transfers and people make, each at a share of its length."""
    changed = bytearray(original)
    for kind, place, content in changes:
        start = int(place * len(changed))
        end = start + len(content)
        if kind == "cut":
            del changed[start:]
        elif kind == "insert":
            changed[start:start] = content
        elif kind == "repeat":
            changed[start:start] = changed[start:end]
        else:
            changed[start:end] = content if kind == "replace" else b""
    return bytes(changed)


def check(cases: int, strategy: st.SearchStrategy, body: Callable[..., None]) -> None:
    """Run `body` on so many cases; the same ones every time."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    given(strategy)(settings(max_examples=cases, deadline=None, derandomize=True, suppress_health_check=quiet)(body))()


def refusal(read: Callable[[], object]) -> str | None:
    """Why it is not read, None when it is; every other error escapes."""
    try:
        read()
    except InputError as error:
        return str(error)
    return None


def is_read_or_refused(read: Callable[[], object]) -> bool:
    """Read, or refused in one line."""
    reason = refusal(read)
    return reason is None or len(reason.splitlines()) == 1


@CASES
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name, cases, tmp_path):
    reader = READERS[name]
    path = reader.write(tmp_path)
    original = path.read_bytes()
    assert refusal(lambda: reader.read(path)) is None

    def body(changes: list[tuple[str, float, bytes]]) -> None:
        path.write_bytes(damaged(original, changes))
        assert is_read_or_refused(lambda: reader.read(path))

    check(cases, DAMAGE, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["5", "first"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@CASES
def test_an_invented_configuration_is_read_or_refused_in_one_line(cases):
    """Fields of a real one with values of every type and size."""
    real = asdict(SMALL)
    names = st.sampled_from([field.name for field in fields(SMALL)] + ["unknown"])

    def body(changes: dict) -> None:
        assert is_read_or_refused(lambda: config_from_values(real | changes, "here"))

    check(4 * cases, st.dictionaries(names, JSON, min_size=1, max_size=3), body)


@CASES
def test_an_invented_model_is_read_or_refused_in_one_line(cases, tmp_path):
    """Facts of a real one with other values, under a digest that is right."""
    train_small(tmp_path / "run")
    stored = checkpoint.load(tmp_path / "run" / "model.safetensors")
    names = st.sampled_from(["config", "image_shape", "updates", "mean", "std", "data"])

    def body(changes: dict) -> None:
        checkpoint.save(tmp_path / "model.safetensors", checkpoint.Stored(stored.tensors, stored.facts | changes))
        assert is_read_or_refused(lambda: load_run(tmp_path))

    check(cases, st.dictionaries(names, JSON, min_size=1, max_size=2), body)
