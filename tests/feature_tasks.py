"""Random tasks for the theory's tests, and the measure of how far two gradients are apart."""

from typing import NamedTuple

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from encoders_plain import random_head
from metacontrast.theory import FeatureTask
from metacontrast.types import Episode, Head, Inner, Order, Params


class Case(NamedTuple):
    """Features and labels of one task, its head and its inner loop."""

    support: Tensor
    support_y: Tensor
    query: Tensor
    query_y: Tensor
    head: Head
    lr: float
    steps: int

    @property
    def task(self) -> FeatureTask:
        return FeatureTask(self.support, self.support_y, self.query, self.query_y, self.head)

    def inner(self, order: Order = "first", steps: int | None = None, lr: float | None = None) -> Inner:
        return Inner(steps or self.steps, lr or self.lr, "head", order)


def draw_labels(generator: torch.Generator, ways: int, count: int) -> Tensor:
    """At least two classes, else anything: balance is no assumption of the theory."""
    return torch.cat([torch.arange(2), torch.randint(ways, (count,), generator=generator)])


def make_case(seed: int, ways=5, size=7, support=8, query=6, lr=0.3, steps=1, bias=False, scale=0.5) -> Case:
    g = torch.Generator().manual_seed(seed)
    t, u = draw_labels(g, ways, support), draw_labels(g, ways, query)
    features = [torch.randn(len(y), size, generator=g, dtype=torch.float64) for y in (t, u)]
    return Case(features[0], t, features[1], u, random_head(g, ways, size, bias, scale), lr, steps)


# The first example pays for imports, so no deadline; forty draws cover every combination of the switches below.
many = settings(max_examples=40, deadline=None)

cases = st.builds(
    make_case,
    seed=st.integers(0, 2**31),
    ways=st.integers(2, 6),
    size=st.integers(1, 8),
    support=st.integers(0, 8),
    query=st.integers(0, 8),
    lr=st.floats(0.01, 1.0),
    steps=st.integers(1, 4),
    bias=st.booleans(),
    scale=st.sampled_from([0.0, 0.3, 1.0]),
)


def table(features: dict[str, Tensor], x: Tensor) -> Tensor:
    """An encoder whose parameters are the features themselves: its gradient is the error signal at the
    features."""
    return features["query"] if bool(x) else features["support"]


def as_params(case: Case) -> tuple[Params, Episode]:
    params = Params({"support": case.support, "query": case.query}, case.head)
    return params, Episode(torch.tensor(False), case.support_y, torch.tensor(True), case.query_y)


def concatenate(tensors) -> Tensor:
    values = tensors.values() if isinstance(tensors, dict) else tensors
    return torch.cat([t.detach().flatten() for t in values if t is not None])


def relative_error(got, expected) -> float:
    """|got - expected| / |expected| over all entries at once; absolute where the expected vanishes."""
    a, b = concatenate(got), concatenate(expected)
    return float((a - b).norm() / (b.norm() if b.norm() > 0 else 1))
