"""Answers for any number of images, a batch at a time; an image that cannot be read is named and the rest answered."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from metacontrast.classifier.explanation import Explanation, explainer
from metacontrast.classifier.fitted import Fitted
from metacontrast.classifier.storage import State
from metacontrast.data.decode import BATCH, Item, UnreadableImage


class Prediction(NamedTuple):
    """What is said of one image.

    Args:
        image: its name.
        label: the most probable class, also where the image is refused; None for an image that cannot be read.
        probability: of that class, calibrated.
        rejected: whether the image is refused as unlike every class.
        problem: why the image cannot be read, else None.
        pixels: the image as the model sees it.
        explanation: where one was asked for.
    """

    image: str
    label: Hashable = None
    probability: float = 0.0
    rejected: bool = False
    problem: str | None = None
    pixels: UInt8[Tensor, "channel height width"] | None = None
    explanation: Explanation | None = None


def predict_each(
    state: State, items: Iterable[Item], max_pixels: int, device: str = "cpu", *, explain: bool = False
) -> Iterator[Prediction]:
    """A prediction for every item, in order."""
    fitted = state.fitted.on(device)
    explain_one = explainer(state.start, state.support, state.fitted, state.plan) if explain else None
    stream = state.start.images.read_each(items, max_pixels)
    while batch := list(islice(stream, BATCH)):
        found = _answers(fitted, state.support.classes, [pixels for _, pixels in batch])
        for (item, pixels), (label, probability, rejected) in zip(batch, found, strict=True):
            if isinstance(pixels, UnreadableImage):
                yield Prediction(item.name, problem=str(pixels))
            else:
                image = torch.from_numpy(pixels)
                yield Prediction(item.name, label, probability, rejected, None, image, _maybe(explain_one, image))


def _answers(
    fitted: Fitted, classes: tuple[Hashable, ...], batch: list[NDArray[np.uint8] | UnreadableImage]
) -> Iterator[tuple[Hashable, float, bool]]:
    """Label, probability and refusal of each image; placeholders for one that cannot be read."""
    readable = [pixels for pixels in batch if isinstance(pixels, np.ndarray)]
    answers = fitted.answer(torch.from_numpy(np.stack(readable))) if readable else None
    row = 0
    for pixels in batch:
        if answers is None or isinstance(pixels, UnreadableImage):
            yield None, 0.0, False
            continue
        probability, k = answers.probabilities[row].max(0)
        yield classes[int(k)], probability.item(), bool(answers.rejected[row])
        row += 1


def _maybe(explain_one: Callable[[Tensor], Explanation] | None, image: Tensor) -> Explanation | None:
    return None if explain_one is None else explain_one(image)
