"""How alike the features of each pair of classes are.

    heatmap[a, b] = mean over x of class a, x' of class b of  cos(φ(x), φ(x')) = φ(x)ᵀφ(x') / |φ(x)||φ(x')|
    contrast      = mean of the diagonal - mean of the rest

A contrastive learner raises the contrast. The paper draws the map for query against support features and
for query features among themselves (Fig. 2). Among themselves, the pair of a sample with itself says
nothing and is left out here; the paper's map counts it, which lifts the diagonal.

Reference: Kao, Chiu and Chen, ICLR 2022, Section 3.2.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from metacontrast.errors import InputError
from metacontrast.theory.task import check_samples


def similarity_heatmap(
    features: Float[Tensor, "image feature"],
    y: Int[Tensor, " image"],
    other_features: Float[Tensor, "other feature"] | None = None,
    other_y: Int[Tensor, " other"] | None = None,
    *,
    include_self_pairs: bool = False,
    ways: int | None = None,
) -> Float[Tensor, "way way"]:
    """Mean cosine similarity of every class of `features` with every class of `other_features`.

    Without `other_features` the map is of the features among themselves, each sample paired with all but
    itself unless `include_self_pairs`. Labels must be 0 … ways - 1, all of them present; without `ways` they are
    counted, which makes the host wait for a GPU.

    >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    >>> similarity_heatmap(x, torch.tensor([0, 0, 1, 1]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    if ways is None:
        ways = int(y.max()) + 1 if y.numel() else 0
    check_all_classes("features", features, y, ways)
    if other_features is not None and other_y is not None:
        check_all_classes("other features", other_features, other_y, ways)
        values = cosine(features, other_features)
        return means_by_class_pair(values, torch.ones_like(values), y, other_y, ways)
    if (other_features, other_y) != (None, None):
        raise InputError("similarity_heatmap needs other_features and other_y together, or neither")
    if not include_self_pairs:
        check_pairs(y)
    return map_among(features, y, ways, include_self_pairs)


def map_among(
    features: Float[Tensor, "image feature"], y: Int[Tensor, " image"], ways: int, include_self_pairs: bool = False
) -> Float[Tensor, "way way"]:
    """The map of a set with itself; without self pairs 0/0 for a class of one sample."""
    values, alone = cosine(features, features), torch.eye(len(y), dtype=features.dtype, device=features.device)
    return means_by_class_pair(values, torch.ones_like(values) if include_self_pairs else 1 - alone, y, y, ways)


def contrast(heatmap: Float[Tensor, "way way"]) -> Float[Tensor, ""]:
    """Mean of the diagonal minus mean of the rest.

    >>> contrast(torch.tensor([[0.9, 0.3], [0.1, 0.7]]))
    tensor(0.6000)
    """
    ways = len(heatmap)
    if heatmap.shape != (ways, ways) or ways < 2:
        raise InputError(f"heatmap {tuple(heatmap.shape)}: a contrast needs a square map of two classes or more")
    diagonal = heatmap.diagonal()
    return diagonal.mean() - (heatmap.sum() - diagonal.sum()) / (ways * (ways - 1))


def cosine(a: Float[Tensor, "image feature"], b: Float[Tensor, "other feature"]) -> Float[Tensor, "image other"]:
    """cos(φ(x), φ(x')) of every pair; 0 where a feature vector is zero."""
    a, b = (each / each.abs().amax(1, keepdim=True).clamp_min(torch.finfo(each.dtype).tiny) for each in (a, b))
    return normalize(a, dim=1) @ normalize(b, dim=1).T


def means_by_class_pair(
    values: Float[Tensor, "image other"],
    counted: Float[Tensor, "image other"],
    y: Int[Tensor, " image"],
    other_y: Int[Tensor, " other"],
    ways: int,
) -> Float[Tensor, "way way"]:
    """Mean over every pair of classes of the values that count (1) and not of those that do not (0)."""
    kind = torch.promote_types(values.dtype, torch.float32)  # in float16 65,520 pairs are infinitely many
    rows, columns = (one_hot(labels.long(), ways).to(kind) for labels in (y, other_y))
    counted = counted.to(kind)
    return ((rows.T @ (values * counted) @ columns) / (rows.T @ counted @ columns)).to(values.dtype)


def check_all_classes(name: str, features: Tensor, y: Tensor, ways: int) -> None:
    """Every class has a sample; asked on the CPU alone."""
    check_samples(name, features, y, ways)
    if y.is_cpu:
        check_present(name, y, ways)


def check_present(name: str, y: Int[Tensor, " image"], ways: int) -> None:
    """Labels are 0 … ways - 1, all of them present, and of two classes or more."""
    missing = sorted(set(range(max(ways, 2))) - set(y.tolist()))
    if missing:
        raise InputError(f"{name}: labels must be 0 to {max(ways, 2) - 1}, each at least once; missing {missing}")


def check_pairs(y: Int[Tensor, " image"]) -> None:
    """Without self pairs a class needs two samples; asked on the CPU alone."""
    lonely = (torch.bincount(y) == 1).nonzero().flatten().tolist() if y.is_cpu else []
    if lonely:
        raise InputError(f"class {lonely[0]} has one sample, whose only pair is itself: pass include_self_pairs=True")
