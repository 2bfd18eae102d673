"""The values that flow through the library: tasks and parameters."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class Head(NamedTuple):
    """A linear head w: one row per class, as `torch.nn.Linear` stores it (the paper's w is the transpose)."""

    weight: Float[Tensor, "*task way feature"]
    bias: Float[Tensor, "*task way"] | None


class Params(NamedTuple):
    """What MAML learns: the encoder's tensors by name, and the head that stands on its features."""

    encoder: dict[str, Tensor]
    head: Head


class Episode(NamedTuple):
    """One few-shot task, or with a leading axis a batch of tasks of one shape.

    Images are float, `(image, channel, height, width)`; labels are integers in `[0, ways)`.
    """

    support_x: Float[Tensor, "*task support channel height width"]
    support_y: Int[Tensor, "*task support"]
    query_x: Float[Tensor, "*task query channel height width"]
    query_y: Int[Tensor, "*task query"]
