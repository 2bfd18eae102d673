"""One task, as the algorithm treats it and as the theory sees it.

The theory's part holds for the features of the un-adapted encoder under the head that starts the task.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast import theory
from metacontrast.analysis.gradient_parts import flatten
from metacontrast.analysis.similarity import similarity_maps
from metacontrast.analysis.spectrum import support_curvature
from metacontrast.maml.inner import Inner
from metacontrast.maml.outer import task_outcome
from metacontrast.model.model import Model, apply_head
from metacontrast.theory.encoder_gradient import pull_back
from metacontrast.theory.task import merge_bias
from metacontrast.types import Episode, Head, Params


class TaskView(NamedTuple):
    """What is known of one task.

    Args:
        gradients: flat, the encoder's outer gradient, then the theory's parts in the order of `THEORY_PARTS`; a single
            0 for a part that is zero.
        loss, accuracy: of the query images after adaptation.
        coefficients: contrastive coefficients, Eq. 6 and 21.
        wrong_sign_share: share of all of them that have the wrong sign.
        curvature: of every class, see `spectrum.support_curvature`.
        head: that starts the task, weight and bias together.
        before, after: similarity maps of the features before and after adaptation.
    """

    gradients: list[Tensor]
    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]
    coefficients: Float[Tensor, "query support"]
    wrong_sign_share: Float[Tensor, ""]
    curvature: Float[Tensor, "way support support"]
    head: Float[Tensor, "way extended"]
    before: Float[Tensor, "map way way"]
    after: Float[Tensor, "map way way"]


def view_task(model: Model, params: Params, inner: Inner, episode: Episode) -> TaskView:
    """Everything about one task (no leading task axis), detached."""
    start = model.start(params, episode.support_x, episode.support_y)
    parts, (support, query) = _split(model, start, inner, episode)
    heads = theory.adapted_heads(support, episode.support_y, start.head, inner_lr=inner.lr, inner_steps=inner.steps)
    coefficients = _coefficients(support, episode.support_y, query, episode.query_y, heads)
    outcome = task_outcome(model, params, episode, inner)
    with torch.no_grad():
        adapted_support = model.features(outcome.adapted.encoder, episode.support_x)
    return TaskView(
        [flatten(outcome.gradient.encoder), *parts],
        outcome.metrics.loss[0],
        outcome.metrics.accuracy[0],
        coefficients,
        theory.wrong_sign_share(coefficients, episode.query_y, episode.support_y),
        support_curvature(support, start.head),
        merge_bias(start.head),
        similarity_maps(support, episode.support_y, query, episode.query_y, model.ways),
        similarity_maps(adapted_support, episode.support_y, outcome.query, episode.query_y, model.ways),
    )


def _split(model: Model, start: Params, inner: Inner, episode: Episode) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """The theory's parts of the gradient, and the support and query features without their graph."""
    encoder = {name: t.detach().requires_grad_() for name, t in start.encoder.items()}
    with torch.enable_grad():
        support = model.features(encoder, episode.support_x)
        query = model.query_features(encoder, episode.support_x, episode.query_x)
    features = support.detach(), query.detach()
    signals = theory.split_feature_gradient(
        features[0],
        episode.support_y,
        features[1],
        episode.query_y,
        start.head,
        inner_lr=inner.lr,
        inner_steps=inner.steps,
        order=inner.order,
    )
    outputs = query, query, support, support
    return [_pull_back(f, encoder, signal) for f, signal in zip(outputs, signals, strict=True)], features


def _pull_back(features: Tensor, encoder: dict[str, Tensor], signal: Tensor) -> Tensor:
    """The gradient of the encoder that an error signal makes; on a CPU a single 0, without work, for a signal of zeros.

    On a GPU to look at the signal would take longer than the work.
    """
    if signal.is_cpu and not signal.any():
        return signal.new_zeros(())
    return flatten(pull_back(features, encoder, signal))


def _coefficients(
    support: Tensor, support_y: Tensor, query: Tensor, query_y: Tensor, heads: list[Head]
) -> Float[Tensor, "query support"]:
    """c(q, s) of the head's walk through the inner loop while the encoder stands still."""
    before_each_step = torch.stack([apply_head(head, support).softmax(1) for head in heads[:-1]])
    answers = apply_head(heads[-1], query).softmax(1)
    return theory.contrastive_coefficients(answers, query_y, before_each_step, support_y)
