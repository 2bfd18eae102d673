"""When a run is measured, and how."""

from dataclasses import dataclass
from typing import Literal

from metacontrast.maml.inner import Scope
from metacontrast.training.evaluate import TestHead

BOTH: tuple[TestHead, ...] = ("kept", "zeroed")


@dataclass(frozen=True)
class Schedule:
    """What is measured of a run after how many updates; the last of these is the run's end.

    Args:
        updates: ascending.
        steps, last_steps: inner steps at test, before the end and at the end.
        tasks, last_tasks: number of test tasks, the same ones for every run of a data set and shape.
        heads: what the inner loop starts from.
        scope: what the inner loop moves at test; none: what it moved at training.
        also_bound: test also on tasks whose labels are bound as in training, which is a fault of the released code.
        what: `accuracy` on test tasks, or the `similarity` of the features of the one task that is trained on.
    """

    updates: tuple[int, ...]
    steps: tuple[int, ...] = (1,)
    last_steps: tuple[int, ...] = (1, 2, 3)
    tasks: int = 100
    last_tasks: int = 400
    heads: tuple[TestHead, ...] = ("zeroed",)
    scope: Scope | None = None
    also_bound: bool = False
    what: Literal["accuracy", "similarity"] = "accuracy"

    @property
    def end(self) -> int:
        """The run's number of updates."""
        return self.updates[-1]

    def steps_at(self, update: int) -> tuple[int, ...]:
        """Inner steps at test after `update` outer updates."""
        return self.last_steps if update == self.end else self.steps

    def tasks_at(self, update: int) -> int:
        """Number of test tasks after `update` outer updates."""
        return self.last_tasks if update == self.end else self.tasks


def quantity(head: str, steps: int, bound: bool = False) -> str:
    """The name of a measured accuracy.

    >>> quantity("zeroed", 1)
    'zeroed/1'
    """
    return f"{'bound ' if bound else ''}{head}/{steps}"
