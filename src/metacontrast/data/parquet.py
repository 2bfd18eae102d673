"""Images in parquet files, as data set hubs hand them out: `data/SPLIT-00000-of-00001.parquet`.

Column `image` holds the encoded file, alone or as `bytes` beside its `path`; `label` holds a class name, or a
number whose name stands in the file's metadata.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from metacontrast.data.decode import BATCH, Item, Listing
from metacontrast.errors import InputError
from metacontrast.files import parse_json

HUB_NAMES = {"val": ("validation", "val")}
# The standard errors from which those of pyarrow are derived.
DAMAGE = (OSError, ValueError, NotImplementedError)


def find(folder: Path, split: str) -> list[Path]:
    """Find the files of a split, in order."""
    names = HUB_NAMES.get(split, (split,))
    return sorted(file for name in names for file in (folder / "data").glob(f"{name}-*.parquet"))


def open_listing(files: Sequence[Path], split: str) -> Listing:
    """Open the files as a listing; images are read a few hundred at a time on demand."""
    counts = Counter(label for file in files for label, _ in _rows(file, ["label"]))
    return Listing(counts, (item for file in files for item in _items(file)))


def _items(file: Path) -> Iterator[Item]:
    for number, (label, image) in enumerate(_rows(file, ["label", "image"])):
        content = image.get("bytes") if isinstance(image, dict) else image
        yield Item(label, f"{file.name} row {number}", content or b"")


def _rows(file: Path, columns: list[str]) -> Iterator[tuple[str, Any]]:
    """The label of every row and the last of these columns."""
    table = _open(file)
    missing = {"label", "image"} - set(table.schema_arrow.names)
    if missing:
        raise InputError(f"{file} has no column {' and '.join(sorted(missing))}; fetch another snapshot")
    name_of = _label_names(file, table.schema_arrow.metadata or {})
    try:
        for batch in table.iter_batches(batch_size=BATCH, columns=columns):
            labels, values = (batch.column(column).to_pylist() for column in ("label", columns[-1]))
            yield from zip(map(name_of, labels), values, strict=True)
    except DAMAGE as error:
        raise _damaged(file, error) from error


def _open(file: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError(f"reading {file} needs pyarrow: pip install 'metacontrast[parquet]'") from error
    try:
        return ParquetFile(file)
    except DAMAGE as error:
        raise _damaged(file, error) from error


def _label_names(file: Path, metadata: dict[bytes, bytes]) -> Callable[[Any], str]:
    """Return a function from labels to class names: numbers by the hub's list, text as it is."""
    try:
        features = parse_json(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        names = features.get("label", {}).get("names", [])
    except (ValueError, AttributeError) as error:
        raise _damaged(file, error) from error

    def name_of(label: Any) -> str:
        if isinstance(label, str):
            return label
        return str(names[label]) if isinstance(label, int) and 0 <= label < len(names) else f"label {label}"

    return name_of


def _damaged(file: Path, error: Exception) -> InputError:
    return InputError(f"{file} is not a readable parquet file ({' '.join(str(error).split())}); fetch it again")
