"""Probabilities and refusals, set on images that were held out of the support set.

p = softmax(z / T),    T minimizes the cross entropy of the held-out images
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metacontrast.errors import InputError

WIDEST = 1e4


def fit_temperature(logits: Float[Tensor, "image way"], y: Int[Tensor, " image"]) -> float:
    """The temperature T with the least cross entropy.

    With n images the true class is asked for with probability (n + 1) / (n + 2), not 1 (Platt's targets): else n right
    answers would call for certainty. The cross entropy is convex in 1/T, so bisection on its slope finds the minimum.

    >>> round(fit_temperature(torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 0, 0])), 4)
    1.4427
    """
    z = logits.double()
    z = z - z.mean(1, keepdim=True)
    spread = z.square().mean().sqrt().item()
    if spread == 0:
        return 1.0
    targets = _soft_targets(y, z.shape[1])
    low, high = 1 / (spread * WIDEST), WIDEST / spread
    while high / low > 1 + 1e-12:
        middle = math.sqrt(low * high)
        slope = (((middle * z).softmax(1) - targets) * z).sum()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return 1 / low


def cross_entropy(logits: Float[Tensor, "image way"], y: Int[Tensor, " image"], temperature: float) -> float:
    """Mean cross entropy in nats of the calibrated probabilities, against the same targets."""
    z = logits.double()
    return -(_soft_targets(y, z.shape[1]) * (z / temperature).log_softmax(1)).sum(1).mean().item()


def rejection_threshold(scores: Float[Tensor, " image"], rate: float) -> float:
    """The score below which at most a share `rate` of images of known classes falls.

    Of n held-out scores and that of one more known image every order is as likely, so the j-th smallest of the n has
    the next one below it with probability j / (n + 1); j is the greatest with j / (n + 1) ≤ rate.
    """
    if not 0 < rate < 1:
        raise InputError(
            f"reject={rate}, but it must lie between 0 and 1: the share of known images that may be refused"
        )
    if len(scores) == 0:
        raise InputError(
            f"reject={rate} is set on held-out images, and no class has a second image to hold out: add images"
        )
    j = math.floor(rate * (len(scores) + 1) + 1e-9)
    if j < 1:
        raise InputError(
            f"reject={rate} needs {math.ceil(1 / rate - 1e-9) - 1} images to hold out, of classes with 2 or more, and "
            f"there are {len(scores)}: add images, or raise it above {1 / (len(scores) + 1):.3f}"
        )
    return scores.sort().values[j - 1].item()


def is_rejected(scores: Float[Tensor, " image"], threshold: float | None) -> Bool[Tensor, " image"]:
    """Which images are refused; none without a threshold."""
    return scores < (-math.inf if threshold is None else threshold)


def _soft_targets(y: Int[Tensor, " image"], ways: int) -> Float[Tensor, "image way"]:
    missing = 1 / (len(y) + 2)
    targets = torch.full((len(y), ways), missing / (ways - 1), dtype=torch.float64)
    return targets.scatter(1, y[:, None], 1 - missing)
