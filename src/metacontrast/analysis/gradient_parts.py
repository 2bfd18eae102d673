"""The real outer gradient of the encoder as a sum of the theory's parts and of what the theory does not see.

    g = interference + contrastive (query side) + contrastive (support side) + head curvature + remainder

    share(part) = ⟨part, g⟩ / |g|²          sum to 1 over all parts if g ≠ 0; negative for one that works against g
    cosine(part) = ⟨part, g⟩ / (|part||g|)
    distance = |remainder| / |g|             0 where the frozen-encoder theory is exact; not defined for g = 0 ≠ theory

The first four are `metacontrast.theory.split_encoder_gradient`, which lets the inner loop move the head alone.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.theory import EncoderGradient

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
    """Every part of g by name, the remainder last.

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


def drop_rounding(
    gradient: Float[Tensor, " parameter"], theory_parts: Float[Tensor, "part parameter"]
) -> Float[Tensor, " parameter"]:
    """g, or zero where its length is within rounding of the theory's longest part: |g| ≤ 64 ε max |part|.

    So it is where only the encoder adapts under a shared head, whose gradient is zero but for rounding.
    """
    rounding = 64 * torch.finfo(gradient.dtype).eps * theory_parts.norm(dim=1).max()
    return gradient if gradient.norm() > rounding else torch.zeros_like(gradient)


def flatten(tensors: dict[str, Tensor]) -> Float[Tensor, " parameter"]:
    """All entries of a gradient as one vector, in the order of its names."""
    return torch.cat([t.flatten() for t in tensors.values()])
