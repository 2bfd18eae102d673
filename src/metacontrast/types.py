"""The values that flow through the library: tasks and parameters."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

Order = Literal["first", "second"]
"""Whether the outer gradient runs through the inner gradients (`second`) or takes them as constants (`first`)."""


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


def head_tensors(head: Head) -> list[Tensor]:
    """The weight, and the bias if there is one."""
    return [t for t in head if t is not None]


def head_from(tensors: Sequence[Tensor]) -> Head:
    """The inverse of `head_tensors`."""
    weight, *bias = tensors
    return Head(weight, bias[0] if bias else None)


def to_tensors(params: Params) -> list[Tensor]:
    """All tensors of `params` in a fixed order: the encoder's, the head's weight, its bias if there is one."""
    return [*params.encoder.values(), *head_tensors(params.head)]


def from_tensors(like: Params, tensors: Sequence[Tensor]) -> Params:
    """The inverse of `to_tensors`: these tensors in the structure of `like`."""
    return Params(dict(zip(like.encoder, tensors, strict=False)), head_from(tensors[len(like.encoder) :]))


def map_params(function: Callable[..., Tensor], *params: Params) -> Params:
    """Apply `function` to the tensors that stand at the same place in every argument."""
    tensors = [function(*group) for group in zip(*map(to_tensors, params), strict=True)]
    return from_tensors(params[0], tensors)
