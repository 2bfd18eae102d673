"""The values that flow through the library: tasks, parameters, and how a task is adapted to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.fields import check_fields

Order = Literal["first", "second"]
"""Whether the outer gradient runs through the inner gradients (`second`) or takes them as constants (`first`)."""

Scope = Literal["all", "head", "encoder"]
LossName = Literal["cross_entropy", "mean_square_error"]
Loss = LossName | Callable[[Tensor, Tensor], Tensor]
"""A name, or a function from one task's outputs `(image, way)` and labels `(image,)` to their mean loss, a scalar."""

Direction = Callable[[dict[str, Tensor], Any], tuple[dict[str, Tensor], Any]]
"""From one task's gradient of all that moves, by name, and what it returned at the step before (None at the first) to
the direction, whose negative is followed, and what it wants to see at the next step. Made of differentiable operations.
"""


class Head(NamedTuple):
    """A linear head w: one row per class, as `torch.nn.Linear` stores it (the paper's w is the transpose)."""

    weight: Float[Tensor, "*task way feature"]
    bias: Float[Tensor, "*task way"] | None


STEPS = "steps."
"""Before the names in `Params.extra` of encoder tensors that have a value of their own after every inner step."""


class Params(NamedTuple):
    """Parameters that MAML learns: the encoder's tensors by name, and the linear head on its features.

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
        return f"Episode({name_shapes(**self._asdict())})"


@dataclass(frozen=True)
class Inner:
    """Settings of the inner loop, which adapts the parameters to one task.

    Args:
        steps: number of gradient steps N, 0 or more.
        lr: step size η; `metacontrast.learned_rates` makes it a part of the parameters.
        scope: what moves: `all`, the `head` alone (ANIL), or the `encoder` alone (BOIL).
        order: whether the outer gradient runs through the inner gradients (`second`) or not (`first`).
        loss: mean `cross_entropy`; `mean_square_error`, half the squared distance of the outputs to one-hot targets; or
            a function `loss(outputs, labels)` of one task.
        query_loss: loss on the query set; None is `loss`.
        loss_weights: weights of the query loss after each inner step in the outer loss (MAML++'s multi-step loss); the
            last must be positive. Empty: the loss after the last step only.
        direction: turns the gradient into another direction of descent, such as one with momentum: a function
            `direction(gradient, memory)` that returns both, see `Direction`.
    """

    steps: int = 1
    lr: float = 0.01
    scope: Scope = "all"
    order: Order = "first"
    loss: Loss = "cross_entropy"
    query_loss: Loss | None = None
    loss_weights: tuple[float, ...] = ()
    direction: Direction | None = None

    def __post_init__(self) -> None:
        if isinstance(self.lr, Tensor):
            raise InputError("inner lr is a tensor, whose gradient would be lost: pass a float, or see learned_rates")
        check_fields(self)
        if self.steps < 0:
            raise InputError(f"inner steps={self.steps}, but it must be 0 or more")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"inner lr={self.lr}, but it must be above 0 and finite")
        weights = self.loss_weights
        if weights and (len(weights) != self.steps or not 0 <= min(weights) <= max(weights) < float("inf")):
            raise InputError(f"loss_weights={weights}, but {self.steps} inner steps need one of 0 or more for each")
        if weights and not weights[-1]:
            raise InputError(f"loss_weights={weights} leave out the last step: take fewer inner steps")

    def at_test(self, steps: int) -> "Inner":
        """The same adaptation with this number of steps, and without a graph for the outer gradient."""
        return replace(self, steps=steps, order="first", loss_weights=())

    def plain_values(self) -> dict[str, Any]:
        """The fields that a file can hold.

        Raises:
            InputError: others are set, such as a loss that is a function.
        """
        if callable(self.loss) or not self.is_plain:
            raise InputError("this adaptation has a loss, direction or weights of its own, which cannot be saved")
        return {name: getattr(self, name) for name in ("steps", "lr", "scope", "order", "loss")}

    @property
    def is_plain(self) -> bool:
        """Whether it is gradient descent on one loss, which the query set has too, after the last step alone."""
        return self.query_loss is None and not self.loss_weights and self.direction is None

    @property
    def outer_loss(self) -> Loss:
        """The loss of the query set."""
        return self.loss if self.query_loss is None else self.query_loss


def name_shapes(**tensors: Tensor) -> str:
    """The shape of every tensor behind its name, for one line.

    >>> from torch import ones
    >>> name_shapes(weight=ones(5, 64), bias=ones(5))
    'weight 5×64, bias 5'
    """
    return ", ".join(f"{name} {_shape(tensor)}" for name, tensor in tensors.items())


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
    """Build `Params` from a list of tensors in the order of `to_tensors`, its inverse.

    Args:
        like: parameters of the wanted structure; their values are not used.
        tensors: as many as `to_tensors(like)` returns.
    """
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
    """Apply `function` to corresponding tensors of one or more `Params`; return the results in their structure.

    Args:
        function: from one tensor of each of `params` to a tensor.
        params: parameters of the same structure.
    """
    tensors = [function(*group) for group in zip(*map(to_tensors, params), strict=True)]
    return from_tensors(params[0], tensors)
