"""A support set learned: what answers for an image by itself, and for any number of images in turn."""

import copy
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from metacontrast.classifier.candidates import PROTOTYPE, Candidate, Plan, on_features, solve, task_start, with_features
from metacontrast.classifier.confidence import rejection_threshold
from metacontrast.classifier.cross_validation import Score, cross_validate, report, similarity
from metacontrast.classifier.starting_point import StartingPoint
from metacontrast.classifier.support import Support, each_alone
from metacontrast.data.decode import BATCH, Item, UnreadableImage
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError
from metacontrast.maml.engine import arithmetic
from metacontrast.model.frozen import freeze, frozen_features
from metacontrast.model.head import class_means
from metacontrast.model.model import Model, apply_head
from metacontrast.types import Head, Params, map_params

if TYPE_CHECKING:
    from metacontrast.classifier.explanation import Explanation


class Network(nn.Module):
    """Pixels in, logits and similarity out; one image's answer depends on that image alone, up to rounding.

    Similarity is seen from `centre`, the mean of the class means.

    Args:
        encoder: with the support set's statistics in it.
        means: the class means of the support features.
        images: how pixels are normalized.
    """

    def __init__(self, encoder: nn.Module, head: Head, means: Float[Tensor, "way feature"], images: ImageFormat):
        super().__init__()
        self.encoder = encoder
        self.images = images
        bias = torch.zeros_like(head.weight[:, 0]) if head.bias is None else head.bias
        values = (head.weight, bias, means, means.mean(0))
        plain = (t.detach().clone(memory_format=torch.contiguous_format) for t in values)
        self.weight, self.bias, self.means, self.centre = (nn.Parameter(t, requires_grad=False) for t in plain)

    def forward(
        self, pixels: UInt8[Tensor, "image channel height width"]
    ) -> tuple[Float[Tensor, "image way"], Float[Tensor, " image"]]:
        """Uncalibrated logits, and the similarity to the nearest class."""
        features = self.features(pixels)
        return apply_head(Head(self.weight, self.bias), features), similarity(features, self.means, self.centre)

    def features(self, pixels: UInt8[Tensor, "image channel height width"]) -> Float[Tensor, "image feature"]:
        """What the encoder makes of the images."""
        return frozen_features(self.encoder, self.images.to_input(pixels))


def check_finite(found: Float[Tensor, "image value"], names: Sequence[str] | None = None) -> Tensor:
    """What was computed of images; `InputError` where a value is NaN or infinite, which names the first image."""
    broken = (~found.isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        name = names[broken[0]] if names else f"image {broken[0]}"
        raise InputError(
            f"the encoder's features of {name} are not finite ({len(broken)} of {len(found)} images): its weights or "
            "its preprocessing are wrong"
        )
    return found


@dataclass(frozen=True)
class Answers:
    """What is said of images.

    Args:
        probabilities: calibrated, of every class.
        similarity: to the nearest class.
        rejected: which images are refused as unlike every class.
    """

    probabilities: Float[Tensor, "image way"]
    similarity: Float[Tensor, " image"]
    rejected: Bool[Tensor, " image"]


@dataclass(frozen=True)
class Fitted:
    """A classifier of the support set's classes.

    Args:
        temperature: of the probabilities; the model's own, mostly 1, where nothing could be held out.
        threshold: similarity below which an image is refused; None refuses nothing.
        scores: the cross-validation report, empty where nothing could be held out.
        true_probabilities: of the held-out images' own classes, from which prediction sets are made; temperature and
            threshold were set on the same images.
    """

    network: Network
    candidate: Candidate
    temperature: float
    threshold: float | None
    scores: tuple[Score, ...]
    true_probabilities: tuple[float, ...] = ()

    def on(self, device: str) -> "Fitted":
        """The same with its network on `device`."""
        if self.network.weight.device.type == device:
            return self
        return replace(self, network=copy.deepcopy(self.network).to(device))

    def answer(
        self, pixels: UInt8[Tensor, "image channel height width"], names: Sequence[str] | None = None
    ) -> Answers:
        """Answers for images in the model's format, computed where the network is.

        Args:
            names: what messages call the images; None calls them by number.

        Raises:
            InputError: the encoder's features of an image are not finite.
        """
        probabilities, found = (
            torch.cat(part) for part in zip(*each_alone(self._answer, pixels, self.device), strict=True)
        )
        check_finite(torch.column_stack([probabilities, found]), names)
        return Answers(probabilities, found, found < (-math.inf if self.threshold is None else self.threshold))

    def features(self, pixels: UInt8[Tensor, "image channel height width"]) -> Float[Tensor, "image feature"]:
        """What the encoder makes of the images; `InputError` where that is not finite."""
        one = lambda some: self.network.features(some.to(self.device)).cpu()  # noqa: E731
        return check_finite(torch.cat(each_alone(one, pixels, self.device)))

    def _answer(
        self, pixels: UInt8[Tensor, "image channel height width"]
    ) -> tuple[Float[Tensor, "image way"], Float[Tensor, " image"]]:
        """Probabilities and similarity of one batch, on the CPU."""
        logits, found = (part.cpu() for part in self.network(pixels.to(self.device)))
        return (logits.double() / self.temperature).softmax(1), found

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.weight.device


def fit_support(
    start: StartingPoint, support: Support, plan: Plan, device: str = "cpu", verbose: bool = False
) -> Fitted:
    """Choose the way, calibrate, then learn from the whole support set, in IEEE single precision.

    Args:
        device: where it is computed; the result is on the CPU.
        verbose: show how far the cross-validation is.
    """
    with arithmetic("float32", torch.device(device)):
        return _fit_support(start, support, plan, device, verbose)


def _fit_support(start: StartingPoint, support: Support, plan: Plan, device: str, verbose: bool) -> Fitted:
    model, params, x = task_of(start, support, device, plan.random_head)
    y = support.y.to(device)
    wanted = plan.wanted(model.ways)
    tried = (PROTOTYPE, *(each for each in wanted if each != PROTOTYPE))
    held_out = cross_validate(model, params, x, y, support.ranks, plan.inner, tried, plan.folds, verbose)
    # cross entropy counts by how much an answer is right, which tells more of few images than accuracy does
    chosen = min(wanted, key=lambda way: held_out[way].cross_entropy) if held_out else plan.default
    net, begin, shown = on_features(model, params, x) if plan.inner.scope == "head" else (model, params, x)
    ((_, adapted),) = solve(net, begin, shown, y, plan.inner, [chosen])
    with torch.no_grad():
        means = class_means(net.features(adapted.encoder, shown), y, model.ways)
    if not all(t.isfinite().all() for t in (means, adapted.head.weight)):
        if chosen.steps and x.isfinite().all():
            raise InputError(f"adapting with lr={chosen.lr:g} and steps={chosen.steps} diverged: lower one of them")
        raise InputError(
            "the encoder's features of these images are not finite: its weights or its preprocessing are wrong"
        )
    found = held_out.get(chosen)
    seen = found.similarity if found else torch.empty(0)
    encoder = (
        start.frozen_encoder if support.features is not None else freeze(model, adapted.encoder or params.encoder, x)
    )
    return Fitted(
        Network(encoder, adapted.head, means, start.images).eval().cpu(),
        chosen,
        found.temperature if found else start.temperature(chosen, plan.inner.scope, model.ways),
        None if plan.reject is None else rejection_threshold(seen, plan.reject),
        report(held_out, PROTOTYPE, chosen),
        tuple(found.true_probabilities.tolist()) if found else (),
    )


def task_of(
    start: StartingPoint, support: Support, device: str = "cpu", random_head: int | None = None
) -> tuple[Model, Params, Tensor]:
    """The model for the support set's classes, its parameters, and what it learns from: images, or their features."""
    on_device = start.model if device == "cpu" else start.model.to(device)
    params = map_params(lambda t: t.to(device), start.params)
    model, params = task_start(on_device, params, len(support.classes), random_head)
    if support.features is not None:
        return with_features(model, params, support.features.to(device))
    return model, params, start.images.to_input(support.images.to(device))


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
        probabilities: of every class, in the order of `classes_`.
    """

    image: str
    label: Hashable = None
    probability: float = 0.0
    rejected: bool = False
    problem: str | None = None
    pixels: UInt8[Tensor, "channel height width"] | None = None
    explanation: "Explanation | None" = None
    probabilities: tuple[float, ...] = ()


def predict_each(
    fitted: Fitted,
    classes: Sequence[Hashable],
    stream: Iterator[tuple[Item, NDArray[np.uint8] | UnreadableImage]],
    explain: "Callable[[Tensor], Explanation] | None" = None,
) -> Iterator[Prediction]:
    """Yield one prediction per item, in order; that of an unreadable image says what is wrong. Runs in batches."""
    while batch := list(islice(stream, BATCH)):
        readable = [(item.name, pixels) for item, pixels in batch if isinstance(pixels, np.ndarray)]
        names, images = zip(*readable, strict=True) if readable else ((), ())
        answers = fitted.answer(torch.from_numpy(np.stack(images)), names) if readable else None
        rows = zip(answers.probabilities.tolist(), answers.rejected.tolist(), strict=True) if answers else iter(())
        for item, pixels in batch:
            if isinstance(pixels, UnreadableImage):
                yield Prediction(item.name, problem=str(pixels))
                continue
            probabilities, rejected = next(rows)
            image, k = torch.from_numpy(pixels), int(np.argmax(probabilities))
            why = None if explain is None else explain(image)
            yield Prediction(item.name, classes[k], probabilities[k], rejected, None, image, why, tuple(probabilities))
