"""What is known of every data set before it is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from metacontrast.data.images import ClassImages
from metacontrast.data.options import ReadOptions, Resample
from metacontrast.fields import check_fields

SPLITS = ("train", "val", "test")


@runtime_checkable
class Reader(Protocol):
    """What a data set's module offers."""

    READER_VERSION: int
    """Raised whenever the same files give other images than before."""

    def read(self, root: Path, split: str, options: ReadOptions) -> ClassImages:
        """One split of the set in `root`, complete, or an `InputError`."""
        ...

    def sources(self, root: Path, options: ReadOptions) -> list[Path]:
        """The files and folders that the set is read from, or an `InputError` that says where they belong."""
        ...


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of one data set.

    Args:
        name: as the command line takes it.
        description: one line.
        splits: the names of its splits.
        source: where it comes from.
        licence: under which terms.
        shape: channels, height and width of its images by default; None where the files decide.
        options: the fields of `ReadOptions` that apply.
        resample: the filter for resizing, by default.
        counts: classes and images of every split, where these are published.
    """

    name: str
    description: str
    splits: tuple[str, ...]
    source: str
    licence: str
    shape: tuple[int, int, int] | None
    options: tuple[str, ...]
    resample: Resample = "bilinear"
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    __post_init__ = check_fields

    @property
    def reader(self) -> Reader:
        """The module that reads the set, imported when it is first needed."""
        return cast(Reader, import_module(f"metacontrast.data.{self.name.replace('-', '_')}"))


FOLDER = DatasetSpec(
    name="folder",
    description="your own images, one folder per class: folder:PATH",
    splits=("all", *SPLITS),
    source="your files",
    licence="yours",
    shape=None,
    options=("image_size", "resample", "invert", "rotations", "skip_unreadable"),
)

DATASETS: Mapping[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="glyphs",
            description="typeset characters of many scripts, distorted; embedded, nothing to fetch",
            splits=SPLITS,
            source="drawn from the fonts that come with matplotlib",
            licence="free fonts (DejaVu, STIX, Computer Modern)",
            shape=(1, 28, 28),
            options=("image_size", "invert"),
        ),
        DatasetSpec(
            name="omniglot",
            description="handwritten characters of 50 alphabets, 20 drawings each",
            splits=SPLITS,
            source="https://github.com/brendenlake/omniglot",
            licence="MIT",
            shape=(1, 28, 28),
            options=("image_size", "resample", "invert", "rotations", "split_scheme"),
            resample="bicubic",
            counts={"train": (1028, 20560), "val": (172, 3440), "test": (423, 8460)},
        ),
        DatasetSpec(
            name="cifar-fs",
            description="colour photographs of 100 classes (CIFAR-100), 600 each",
            splits=SPLITS,
            source="https://www.cs.toronto.edu/~kriz/cifar.html",
            licence="none stated; made for research",
            shape=(3, 32, 32),
            options=("image_size", "resample", "rotations"),
            resample="bicubic",
            counts={"train": (64, 38400), "val": (16, 9600), "test": (20, 12000)},
        ),
        DatasetSpec(
            name="mini-imagenet",
            description="colour photographs of 100 classes of ImageNet, 600 each",
            splits=SPLITS,
            source="https://image-net.org, with an account; in the split of Ravi and Larochelle",
            licence="ImageNet's terms: research, no passing on",
            shape=(3, 84, 84),
            options=("image_size", "resample", "rotations", "skip_unreadable"),
            counts={"train": (64, 38400), "val": (16, 9600), "test": (20, 12000)},
        ),
    )
}
