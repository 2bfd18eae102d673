"""Which support images pulled a decision and which pushed, for one image."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from metacontrast.classifier.candidates import task_start
from metacontrast.classifier.contributions import Trace, contributions, trace
from metacontrast.classifier.fitted import Fitted
from metacontrast.classifier.plan import Plan
from metacontrast.classifier.starting_point import StartingPoint
from metacontrast.classifier.support import Support
from metacontrast.model.frozen import freeze
from metacontrast.model.model import apply_head
from metacontrast.types import Head


@dataclass(frozen=True)
class Explanation:
    """Why an image was answered as it was.

    Args:
        label, against: the answer, and the class that it is compared with: the second best.
        difference: logit of `label` less that of `against`, before the temperature.
        contributions: what each support image adds to it: above 0 it pulled towards `label`, below 0 it pushed away.
            They and `start` sum to `difference`.
        coefficients, similarities: the two factors of each contribution: what the steps made of the image's label, and
            φ(s)ᵀφ(q), with 1 added for the bias. Their product is the contribution where the encoder did not move and
            the head is a sum of inner steps.
        start: what the head's start adds; 0 for a head of zeros.
        through_encoder: how far the difference would be from this with the un-adapted encoder under the same head. It
            is 0 where the encoder did not move; the contributions then are all that the support images did.
        names, labels: of the support images.
    """

    label: Hashable
    against: Hashable
    difference: float
    contributions: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    similarities: NDArray[np.float64]
    start: float
    through_encoder: float
    names: tuple[str, ...]
    labels: tuple[Hashable, ...]

    @property
    def is_exact(self) -> bool:
        """Whether the support images acted through the contributions alone."""
        return self.through_encoder == 0

    def strongest(self, count: int = 5) -> list[int]:
        """Positions of the support images with the largest contributions of either sign."""
        return np.argsort(-np.abs(self.contributions), kind="stable")[:count].tolist()


def explainer(
    start: StartingPoint, support: Support, fitted: Fitted, plan: Plan
) -> Callable[[UInt8[Tensor, "channel height width"]], Explanation]:
    """A function that explains the answer to one image; what does not depend on the image is done once."""
    model, params = task_start(start.model, start.params, len(support.classes), plan.random_head)
    x = start.images.to_input(support.images)
    found = _doubled(trace(model, params, x, support.y, plan.inner, fitted.candidate))
    before = freeze(model, params.encoder, x) if found.moved else None

    def explain(image: UInt8[Tensor, "channel height width"]) -> Explanation:
        with torch.no_grad():
            shown = start.images.to_input(image[None])
            query = fitted.network.encoder(shown)[0]
            unmoved = query if before is None else before(shown)[0]
        return _explain(found, fitted, support, query, unmoved)

    return explain


def _explain(found: Trace, fitted: Fitted, support: Support, query: Tensor, unmoved: Tensor) -> Explanation:
    head = Head(fitted.network.weight, fitted.network.bias)
    logits, elsewhere = (apply_head(head, features[None])[0].double() for features in (query, unmoved))
    one, other = logits.topk(2).indices.tolist()
    parts, coefficients, similarities, start = contributions(found, query.double(), one, other)
    difference = (logits[one] - logits[other]).item()
    return Explanation(
        support.classes[one],
        support.classes[other],
        difference,
        parts.numpy(),
        coefficients.numpy(),
        similarities.numpy(),
        start.item(),
        difference - (elsewhere[one] - elsewhere[other]).item(),
        support.names,
        tuple(support.labels),
    )


def _doubled(found: Trace) -> Trace:
    weight, bias = found.start
    return Trace(
        [(coefficients.double(), features.double()) for coefficients, features in found.parts],
        found.offset.double(),
        Head(weight.detach().double(), None if bias is None else bias.detach().double()),
        found.moved,
    )
