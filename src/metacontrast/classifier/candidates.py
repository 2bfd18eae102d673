"""The ways of turning a support set into a linear classifier, all computed from one starting point.

- the nearest class mean on the un-adapted features: w_k = 2 c_k, b_k = −|c_k|², the honest baseline;
- inner steps from a head of zeros, each class with the same share in the loss:

    one step:   w_k = η/K (c_k − mean of the c's),   b_k = 0

which is the baseline without the means' own lengths: what training adds is in the features, and in further steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metacontrast.classifier.support import balanced_weights
from metacontrast.errors import InputError
from metacontrast.maml.inner import Inner, trajectory
from metacontrast.model.head import HeadKind, class_means, draw_head, prototype_head, zero_head
from metacontrast.model.model import Model
from metacontrast.types import Params, map_params

Method = Literal["adapted", "prototype"]
STEPS = (1, 2, 3, 5, 10)
FACTORS = (1.0, 0.25, 0.0625)


@dataclass(frozen=True, order=True)
class Candidate:
    """One way: so many steps of that size, or none for the nearest class mean."""

    lr: float = 0.0
    steps: int = 0

    @property
    def method(self) -> Method:
        """Which of the two ways it is."""
        return "adapted" if self.steps else "prototype"


PROTOTYPE = Candidate()


def grid(inner: Inner) -> tuple[Candidate, ...]:
    """What `steps="auto"` chooses from: a few numbers of steps, of the model's step size and of smaller ones.

    Smaller, because with many images of few classes the first full step already answers with certainty, and no later
    one then finds anything to mend.
    """
    return tuple(Candidate(inner.lr * factor, steps) for factor in FACTORS for steps in STEPS)


def task_start(model: Model, params: Params, ways: int, random_head: int | None = None) -> tuple[Model, Params]:
    """The model for that many classes, and where its inner loop starts: a head of zeros unless it was trained to start
    otherwise without knowing the number of classes.

    Args:
        random_head: start from a random head of this seed instead, which a zeroed head is compared with.
    """
    if random_head is not None:
        like, generator = params.head.weight, torch.Generator().manual_seed(random_head)
        drawn = draw_head(ways, model.feature_size, params.head.bias is not None, 1.0, generator)
        return _for_task(model, ways, "learned"), map_params(lambda t: t.to(like), Params(params.encoder, drawn))
    if model.head in ("shared", "prototype"):
        return _for_task(model, ways, model.head), params
    return _for_task(model, ways, "zeroed"), zero_head(params, ways)


@lru_cache(maxsize=16)
def _for_task(model: Model, ways: int, head: HeadKind) -> Model:
    """The model for such tasks; kept, since making one copies the encoder several times."""
    return replace(model, ways=ways, head=head)


def solve(
    model: Model,
    params: Params,
    x: Float[Tensor, "support channel height width"],
    y: Int[Tensor, " support"],
    inner: Inner,
    candidates: Sequence[Candidate],
) -> Iterator[tuple[Candidate, Params]]:
    """Every candidate with its adapted parameters; candidates of one step size share a trajectory.

    Args:
        model, params: from `task_start`.
        inner: scope and loss; steps and step size are the candidates'.
    """
    if PROTOTYPE in candidates:
        with torch.no_grad():
            features = model.features(params.encoder, x)
            yield PROTOTYPE, Params(params.encoder, prototype_head(class_means(features, y, model.ways)))
    stepping = sorted(candidate for candidate in candidates if candidate.steps)
    if stepping and inner.scope == "encoder":
        raise InputError("the model adapts its encoder alone, and a zeroed head stays zero: pass scope='all' or 'head'")
    moving = on_features(model, params, x) if stepping and inner.scope == "head" else (model, params, x)
    for lr, group in groupby(stepping, key=lambda candidate: candidate.lr):
        wanted = {candidate.steps: candidate for candidate in group}
        steps = replace(inner, lr=lr, steps=max(wanted), order="first")
        for step, adapted in enumerate(trajectory(*moving, y, steps, balanced_weights(y, x.dtype))):
            if step in wanted:
                yield wanted[step], Params(adapted.encoder or params.encoder, adapted.head)


def on_features(
    model: Model, params: Params, x: Float[Tensor, "image channel height width"], reference: int = 0
) -> tuple[Model, Params, Float[Tensor, "image feature 1 1"]]:
    """Features in place of images: where the head alone moves they are the same at every step.

    Args:
        reference: how many of the images, from the first on, normalize all; 0 is all.
    """
    with torch.no_grad():
        features = model.features(params.encoder, x, reference)
    flat = Model(nn.Flatten(), model.ways, model.feature_size, model.head, model.head_bias)
    return flat, Params({}, params.head), features[:, :, None, None]
