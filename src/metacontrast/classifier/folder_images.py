"""A folder of one's own images, read as a trained model's images were: what the model is evaluated on."""

from itertools import groupby
from pathlib import Path

import numpy as np

from metacontrast.classifier.image_format import ImageFormat
from metacontrast.classifier.inputs import labelled_items
from metacontrast.data.folder import is_divided
from metacontrast.data.images import ClassImages, group_by_class


def read_folder_like(form: ImageFormat, folder: Path, split: str | None) -> ClassImages:
    """The classes of one split; None is `test`, or of a folder that is not divided everything."""
    split = split or ("test" if is_divided(folder) else "all")
    items, pixels = form.read(labelled_items(folder, split))
    rows = groupby(range(len(items)), key=lambda row: items[row].label)
    by_class = [(label, np.stack([pixels[row].numpy() for row in group])) for label, group in rows]
    return group_by_class(f"folder:{folder.resolve().name}/{split}", by_class, mean=form.mean, std=form.std)
