"""The values that flow through the library: tasks and parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

Order = Literal["first", "second"]
"""Whether the outer gradient runs through the inner gradients (`second`) or takes them as constants (`first`)."""


class Head(NamedTuple):
    """A linear head w: one row per class, as `torch.nn.Linear` stores it (the paper's w is the transpose)."""

    weight: Float[Tensor, "*task way feature"]
    bias: Float[Tensor, "*task way"] | None


STEPS = "steps."
"""Before the names in `Params.extra` of encoder tensors that have a value of their own after every inner step."""


class Params(NamedTuple):
    """What MAML learns: the encoder's tensors by name, and the head that stands on its features.

    Args:
        rates: inner learning rates that are learned too, see `metacontrast.maml.inner.learned_rates`; without them
            every step has the size `Inner.lr`.
        extra: what else a head or a method learns, by name: the penalty of a ridge head, a temperature, norms of their
            own for every inner step, a classifier of the training classes.
    """

    encoder: dict[str, Tensor]
    head: Head
    rates: dict[str, Tensor] = {}  # noqa: RUF012, never changed in place
    extra: dict[str, Tensor] = {}  # noqa: RUF012

    @property
    def step_norms(self) -> dict[str, Tensor]:
        """Tensors of the encoder, by name, that have a value of their own after every inner step, `(step, ...)`."""
        return {name.removeprefix(STEPS): t for name, t in self.extra.items() if name.startswith(STEPS)}

    def __repr__(self) -> str:
        """How many numbers there are, and the head's shape."""
        count = sum(t.numel() for t in self.encoder.values())
        rates = f", {len(self.rates)} tensors of rates" if self.rates else ""
        extra = f", {', '.join(self.extra)}" if self.extra else ""
        encoder = f"{len(self.encoder)} encoder tensors with {count:,} numbers"
        return f"Params({encoder}, head {_shape(self.head.weight)}{rates}{extra})"


class Episode(NamedTuple):
    """One few-shot task, or with a leading axis a batch of tasks of one shape.

    Images are float, `(image, channel, height, width)`, or of whatever shape after `image` the encoder takes; labels
    are integers in `[0, ways)`, or any numbers where the loss is a function of your own.
    """

    support_x: Float[Tensor, "*task support channel height width"]
    support_y: Int[Tensor, "*task support"]
    query_x: Float[Tensor, "*task query channel height width"]
    query_y: Int[Tensor, "*task query"]

    def __repr__(self) -> str:
        """The shapes."""
        return f"Episode({', '.join(f'{name} {_shape(t)}' for name, t in self._asdict().items())})"


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape))


def head_tensors(head: Head) -> list[Tensor]:
    """The weight, and the bias if there is one."""
    return [t for t in head if t is not None]


def head_from(tensors: Sequence[Tensor]) -> Head:
    """The inverse of `head_tensors`."""
    weight, *bias = tensors
    return Head(weight, bias[0] if bias else None)


def to_tensors(params: Params) -> list[Tensor]:
    """All tensors of `params` in a fixed order: the encoder's, head weight, head bias if there is one, rates, extra."""
    return [*params.encoder.values(), *head_tensors(params.head), *params.rates.values(), *params.extra.values()]


def from_tensors(like: Params, tensors: Sequence[Tensor]) -> Params:
    """The inverse of `to_tensors`: these tensors in the structure of `like`."""
    given = iter(tensors)
    encoder = dict(zip(like.encoder, given, strict=False))
    head = head_from([next(given) for _ in head_tensors(like.head)])
    rates = dict(zip(like.rates, given, strict=False))
    return Params(encoder, head, rates, dict(zip(like.extra, given, strict=True)))


def to_named(params: Params) -> dict[str, Tensor]:
    """All tensors of `params` under flat names: `encoder.*`, `head.weight`, `head.bias`, `rates.*`, `extra.*`."""
    encoder = {f"encoder.{name}": t for name, t in params.encoder.items()}
    head = dict(zip(("head.weight", "head.bias"), head_tensors(params.head), strict=False))
    rates = {f"rates.{name}": t for name, t in params.rates.items()}
    return encoder | head | rates | {f"extra.{name}": t for name, t in params.extra.items()}


def from_named(like: Params, named: Mapping[str, Tensor]) -> Params:
    """The inverse of `to_named`: these tensors in the structure of `like`."""
    return from_tensors(like, [named[name] for name in to_named(like)])


def map_params(function: Callable[..., Tensor], *params: Params) -> Params:
    """Apply `function` to the tensors that stand at the same place in every argument."""
    tensors = [function(*group) for group in zip(*map(to_tensors, params), strict=True)]
    return from_tensors(params[0], tensors)
