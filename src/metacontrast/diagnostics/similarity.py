"""How alike the features of a task's classes are, before and after the model adapts to the task.

Three maps, class by class, of mean cosine similarity (paper, Fig. 2): query with support, query with query, support
with support. Within a set, a sample is not paired with itself; a class of one sample then has no similarity with
itself, which is not a number.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.theory import contrast, similarity_heatmap
from metacontrast.theory.similarity import cosine, means_by_class_pair

MAPS = ("query-support", "query-query", "support-support")


def similarity_maps(
    support: Float[Tensor, "support feature"],
    support_y: Int[Tensor, " support"],
    query: Float[Tensor, "query feature"],
    query_y: Int[Tensor, " query"],
    ways: int,
) -> Float[Tensor, "map way way"]:
    """The three maps in the order of `MAPS`; each of the `ways` classes needs a support and a query sample."""
    across = similarity_heatmap(query, query_y, support, support_y, ways=ways)
    return torch.stack([across, _among(query, query_y, ways), _among(support, support_y, ways)])


def contrasts(maps: Float[Tensor, "map way way"]) -> dict[str, float | None]:
    """Mean of the diagonal minus mean of the rest, by name of the map; None where there is no diagonal."""
    values = [contrast(each).item() for each in maps]
    return {name: None if value != value else value for name, value in zip(MAPS, values, strict=True)}


def _among(features: Float[Tensor, "image feature"], y: Int[Tensor, " image"], ways: int) -> Float[Tensor, "way way"]:
    """The map of a set with itself; 0/0 for a class of one sample."""
    values = cosine(features, features)
    return means_by_class_pair(values, 1 - torch.eye(len(y), dtype=values.dtype, device=values.device), y, y, ways)
