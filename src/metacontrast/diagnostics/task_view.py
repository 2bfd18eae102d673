"""One task: its real outer gradient, and the parts that the frozen-encoder theory splits it into.

    g = interference + contrastive (query side) + contrastive (support side) + head curvature + remainder

    share(part) = ⟨part, g⟩ / |g|²          sum to 1 over all parts if g ≠ 0; negative for one that works against g
    cosine(part) = ⟨part, g⟩ / (|part||g|)
    distance = |remainder| / |g|             0 where the frozen-encoder theory is exact; not defined for g = 0 ≠ theory

The first four are `metacontrast.theory.split_encoder_gradient`, which lets the inner loop move the head alone; they
hold for the features of the un-adapted encoder under the head that starts the task. Where a head that is built from the
support set answers without inner steps, they are those of `metacontrast.theory.split_built_gradient`, and g has no
remainder.

The eigenvalues of the preconditioner I − ηH_k, H_k = E_s[s_k φ(s)φ(s)ᵀ] (paper, Eq. 10, Fig. 7), are found without the
matrix: H_k is a sum of |S| outer products, so its eigenvalues are those of the |S| × |S| matrix
√s_k(s) √s_k(s') φ(s)ᵀφ(s')/|S| and zeros. A few-shot support set is small where features are long: 5 × 5 in place of
800 × 800. `metacontrast.theory.head_preconditioner` gives the matrix itself.

Similarity of features is measured before and after the model adapts: three maps, class by class, of mean cosine
similarity (paper, Fig. 2). Within a set, a sample is not paired with itself; a class of one sample then has no
similarity with itself, which is not a number.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast import theory
from metacontrast.maml.outer import task_outcome
from metacontrast.model.head import BUILT_HEADS
from metacontrast.model.model import Model, apply_head
from metacontrast.theory import EncoderGradient, contrast, similarity_heatmap
from metacontrast.theory.decomposition import feature_graph, pull_back, split_along
from metacontrast.theory.similarity import map_among
from metacontrast.theory.task import merge_bias, walk
from metacontrast.types import Episode, Head, Inner, Params


class TaskView(NamedTuple):
    """Gradients, coefficients and similarities of one task.

    Args:
        gradients: flat, the encoder's outer gradient, then the theory's parts in the order of `THEORY_PARTS`; a single
            0 for a part that is zero.
        loss, accuracy: of the query images after adaptation.
        coefficients: contrastive coefficients, Eq. 6 and 21.
        wrong_sign_share: share of all of them that have the wrong sign.
        curvature: of every class, see `support_curvature`.
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
    """Compute the gradients, coefficients and similarities of one task (no leading task axis), detached."""
    start = model.start(params, episode.support_x, episode.support_y)
    encoder, graph = feature_graph(model.features, start, episode, model.query_features)
    support, query = graph.support.detach(), graph.query.detach()
    if answers_at_once(model, inner):
        task = support, episode.support_y, query, episode.query_y
        signals = theory.split_built_gradient(*task, **_built(model, start))
        coefficients = theory.build_task(*task, **_built(model, params)).coefficients
    else:
        path = walk(graph, inner)
        signals = split_along(path, start.head)
        coefficients = theory.contrastive_coefficients(
            path.query_probs, episode.query_y, path.support_probs, episode.support_y
        )
    outputs = graph.query, graph.query, graph.support, graph.support
    parts = [_pull_back(f, encoder, signal) for f, signal in zip(outputs, signals, strict=True)]
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


def answers_at_once(model: Model, inner: Inner) -> bool:
    """Whether the head that is built from the support set answers as it is, without an inner step."""
    return model.head in BUILT_HEADS and inner.steps == 0


def _built(model: Model, params: Params) -> dict[str, Any]:
    """Return how the head is built, as arguments of the theory's functions."""
    numbers = {name.removeprefix("log_"): t.exp() for name, t in params.extra.items() if name.startswith("log_")}
    return {"head": model.head, "ways": model.ways, **numbers}


def _pull_back(features: Tensor, encoder: dict[str, Tensor], signal: Tensor) -> Tensor:
    """Pull an error signal back to the encoder; on a CPU a signal of zeros gives a single 0, without work.

    On a GPU to look at the signal would take longer than the work.
    """
    if signal.is_cpu and not signal.any():
        return signal.new_zeros(())
    return flatten(pull_back(features, encoder, signal))


@torch.no_grad()
def support_curvature(support: Float[Tensor, "support feature"], head: Head) -> Float[Tensor, "way support support"]:
    """Compute the |S| × |S| matrix of every class whose eigenvalues are those of H_k."""
    s = apply_head(head, support).softmax(1)
    products = support @ support.T + (head.bias is not None)
    root = (s / len(s)).sqrt()
    return torch.einsum("ak,ab,bk->kab", root, products, root)


def spectrum(
    curvature: Float[Tensor, "*task way support support"], extended: int, inner_lr: float
) -> Float[Tensor, "*task way extended"]:
    """Compute the eigenvalues of I − ηH_k in ascending order, of many tasks at once: a GPU is waited for once a call.

    Args:
        curvature: see `support_curvature`.
        extended: how many eigenvalues there are: the length of a feature, and with a bias one more.

    >>> curvature = support_curvature(2 * torch.eye(3)[:2], Head(torch.zeros(2, 3), None))
    >>> spectrum(curvature, extended=3, inner_lr=0.5)[0]
    tensor([0.5000, 0.5000, 1.0000])
    """
    largest = torch.linalg.eigvalsh(curvature).clamp_min(0).flip(-1)[..., :extended]
    rest = largest.new_zeros(*largest.shape[:-1], extended - largest.shape[-1])
    return 1 - inner_lr * torch.cat([largest, rest], dim=-1)


THEORY_PARTS = EncoderGradient._fields
REMAINDER = "remainder"


class Part(NamedTuple):
    """One summand of the gradient g; `share` and `cosine` are 0 for a part that is zero, and all are where g = 0."""

    norm: float
    share: float
    cosine: float


def describe_parts(
    gradient: Float[Tensor, " parameter"], theory_parts: Float[Tensor, "part parameter"]
) -> dict[str, Part]:
    """Measure every part of g by name, the remainder last.

    >>> parts = describe_parts(torch.tensor([3.0, 4.0]), torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0], [0.0, 0.0]]))
    >>> parts["interference"]
    Part(norm=3.0, share=0.36, cosine=0.6)
    >>> round(parts["remainder"].share, 6), parts["head_curvature"]
    (0.16, Part(norm=0.0, share=0.0, cosine=0.0))
    """
    g = gradient.double()
    parts = torch.cat([theory_parts.double(), (g - theory_parts.double().sum(0))[None]])
    tiny = torch.finfo(g.dtype).tiny
    norms, along = parts.norm(dim=1), parts @ g
    shares = along / g.square().sum().clamp_min(tiny)
    cosines = along / (norms * g.norm()).clamp_min(tiny)
    columns = zip(norms.tolist(), shares.tolist(), cosines.tolist(), strict=True)
    return {name: Part(*column) for name, column in zip((*THEORY_PARTS, REMAINDER), columns, strict=True)}


def flatten(tensors: dict[str, Tensor]) -> Float[Tensor, " parameter"]:
    """Concatenate all entries of a gradient, in the order of its names."""
    return torch.cat([t.flatten() for t in tensors.values()])


MAPS = ("query-support", "query-query", "support-support")


def similarity_maps(
    support: Float[Tensor, "support feature"],
    support_y: Int[Tensor, " support"],
    query: Float[Tensor, "query feature"],
    query_y: Int[Tensor, " query"],
    ways: int,
) -> Float[Tensor, "map way way"]:
    """Compute the maps in the order of `MAPS`; each of the `ways` classes needs a support and a query sample."""
    across = similarity_heatmap(query, query_y, support, support_y, ways=ways)
    return torch.stack([across, map_among(query, query_y, ways), map_among(support, support_y, ways)])


def contrasts(maps: Float[Tensor, "map way way"]) -> dict[str, float | None]:
    """Compute mean of the diagonal minus mean of the rest, by name of the map; None where there is no diagonal."""
    values = [contrast(each).item() for each in maps]
    return {name: None if value != value else value for name, value in zip(MAPS, values, strict=True)}
