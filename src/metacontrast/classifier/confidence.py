"""Probabilities, refusals and prediction sets, set on images that were held out of the support set.

p = softmax(z / T),        T minimizes the cross entropy of the held-out images
refuse q where s(q) < τ,   τ leaves at most a given share of the held-out images below it
set of q = {k : p_k ≥ π},  π leaves at most a share 1 − coverage of the held-out images' true classes below it
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.fields import no_type_check

WIDEST = 1e4


def fit_temperature(
    logits: Float[Tensor, "image way"], y: Int[Tensor, " image"], weights: Float[Tensor, " image"] | None = None
) -> float:
    """The temperature T with the least cross entropy.

    With n images the target of the true class is (n + 1) / (n + 2), not 1 (Platt's targets): otherwise n right answers
    would call for certainty. The cross entropy is convex in 1/T, so bisection on its slope finds the minimum.

    >>> round(fit_temperature(torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 0, 0])), 4)
    1.4427

    Args:
        weights: of the images in the mean, with sum 1; None weighs them alike.
    """
    z = logits.double()
    z = z - z.mean(1, keepdim=True)
    spread = z.square().mean().sqrt().item()
    if spread == 0:
        return 1.0
    targets = _soft_targets(y, z.shape[1])
    share = _shares(y, weights)[:, None]
    low, high = 1 / (spread * WIDEST), WIDEST / spread
    while high / low > 1 + 1e-12:
        middle = math.sqrt(low * high)
        slope = (share * ((middle * z).softmax(1) - targets) * z).sum()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return 1 / low


def cross_entropy(
    logits: Float[Tensor, "image way"],
    y: Int[Tensor, " image"],
    temperature: float,
    weights: Float[Tensor, " image"] | None = None,
) -> float:
    """Mean cross entropy in nats of the calibrated probabilities, against the same targets."""
    z = logits.double()
    each = -(_soft_targets(y, z.shape[1]) * (z / temperature).log_softmax(1)).sum(1)
    return (_shares(y, weights) * each).sum().item()


def rejection_threshold(scores: Float[Tensor, " image"], rate: float) -> float:
    """The score below which at most a share `rate` of images of known classes falls."""
    if len(scores) == 0:
        raise InputError(
            f"reject={rate} is set on held-out images, and no class has a second image to hold out: add images"
        )
    if (found := _quantile(scores, rate)) is None:
        raise InputError(
            f"reject={rate} needs {_needed(rate)} images to hold out, of classes with 2 or more, and there are "
            f"{len(scores)}: add images, or raise it above {1 / (len(scores) + 1):.3f}"
        )
    return found


@no_type_check
def set_threshold(true_probabilities: Float[Tensor, " image"], coverage: float) -> float:
    """The probability from which on a class belongs to an image's prediction set.

    The true class of at most a share 1 − coverage of images like those held out has a smaller one (Vovk et al. 2005;
    Sadinle et al. 2019).

    >>> set_threshold(torch.tensor([0.9, 0.2, 0.8, 0.7], dtype=torch.float64), 0.8)
    0.2

    Args:
        true_probabilities: of the true class of every held-out image.
        coverage: the share of images whose set is to hold their class.
    """
    if not (isinstance(coverage, float | int) and 0 < coverage < 1):
        raise InputError(f"coverage={coverage!r}, but it must lie between 0 and 1, such as 0.9")
    if (found := _quantile(true_probabilities, 1 - coverage)) is None:
        n = len(true_probabilities)
        raise InputError(
            f"prediction sets of coverage {coverage:g} need {_needed(1 - coverage)} images that were held out, of "
            f"classes with 2 or more images, and there are {n}: add images, or ask for {n / (n + 1):.2f} or less"
        )
    return found


def prediction_set(probabilities: Sequence[float], threshold: float) -> list[int]:
    """The classes of an image's set, the most probable first, which always belongs to it."""
    order = sorted(range(len(probabilities)), key=lambda k: -probabilities[k])
    return [k for n, k in enumerate(order) if not n or probabilities[k] >= threshold]


def _quantile(values: Float[Tensor, " image"], share: float) -> float | None:
    """The j-th smallest of n values, j the greatest with j / (n + 1) ≤ share; None where there is none.

    Of the n and one more value of the same kind every order is equally likely: that one is below the j-th smallest with
    probability j / (n + 1).
    """
    j = math.floor(share * (len(values) + 1) + 1e-9)
    return values.sort().values[j - 1].item() if j else None


def _needed(share: float) -> int:
    """How many values `_quantile` needs."""
    return math.ceil(1 / share - 1e-9) - 1


def _soft_targets(y: Int[Tensor, " image"], ways: int) -> Float[Tensor, "image way"]:
    missing = 1 / (len(y) + 2)
    targets = torch.full((len(y), ways), missing / (ways - 1), dtype=torch.float64)
    return targets.scatter(1, y[:, None], 1 - missing)


def _shares(y: Int[Tensor, " image"], weights: Float[Tensor, " image"] | None) -> Float[Tensor, " image"]:
    return torch.full((len(y),), 1 / len(y), dtype=torch.float64) if weights is None else weights.double()
