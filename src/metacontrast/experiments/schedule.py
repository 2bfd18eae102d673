"""When a run is measured, and how."""

from dataclasses import dataclass
from typing import Literal

from metacontrast.fields import check_fields
from metacontrast.maml.inner import Scope
from metacontrast.training.evaluate import TestHead

BOTH: tuple[TestHead, ...] = ("kept", "zeroed")
STAGES = (300, 600, 1500, 3000, 5000, 10_000, 17_500, 30_000)
"""Updates after which a verdict may be given, apart from the end of a run."""
STAGE_TASKS = 1000
"""Test tasks behind a verdict."""


@dataclass(frozen=True)
class Schedule:
    """What is measured of a run after how many updates; the last of these is the run's end.

    The stages, after which a verdict may be given, are `STAGES` and the end: there it is measured in more detail.

    Args:
        updates: ascending.
        steps, stage_steps: inner steps at test, between the stages and at them.
        tasks, stage_tasks: number of test tasks, the same ones for every run of a data set and shape.
        heads: what the inner loop starts from.
        scope: what the inner loop moves at test; none: what it moved at training.
        also_bound: test also on tasks whose labels are bound as in training, which is a fault of the released code.
        what: `accuracy` on test tasks, or the `similarity` of the features of the one task that is trained on.
    """

    updates: tuple[int, ...]
    steps: tuple[int, ...] = (1,)
    stage_steps: tuple[int, ...] = (1, 2, 3)
    tasks: int = 250
    stage_tasks: int = STAGE_TASKS
    heads: tuple[TestHead, ...] = ("zeroed",)
    scope: Scope | None = None
    also_bound: bool = False
    what: Literal["accuracy", "similarity"] = "accuracy"

    __post_init__ = check_fields

    @property
    def end(self) -> int:
        """The run's number of updates."""
        return self.updates[-1]

    def is_stage(self, update: int) -> bool:
        """Whether a verdict may be given after `update` outer updates."""
        return update in STAGES or update == self.end

    def steps_at(self, update: int) -> tuple[int, ...]:
        """Inner steps at test after `update` outer updates."""
        return self.stage_steps if self.is_stage(update) else self.steps

    def tasks_at(self, update: int) -> int:
        """Number of test tasks after `update` outer updates."""
        return self.stage_tasks if self.is_stage(update) else self.tasks


def quantity(head: str, steps: int, bound: bool = False) -> str:
    """The name of a measured accuracy.

    >>> quantity("zeroed", 1)
    'zeroed/1'
    """
    return f"{'bound ' if bound else ''}{head}/{steps}"
