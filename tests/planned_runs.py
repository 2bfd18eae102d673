"""Small runs of a grid, for the tests of what carries them out."""

from dataclasses import replace

from metacontrast.experiments.runs import PlannedRun
from metacontrast.experiments.setting import MeasurementPlan
from metacontrast.training.config import TrainConfig

SMALL = TrainConfig(
    dataset="glyphs", filters=2, queries=2, meta_batch=2, eval_every=0, eval_episodes=2, checkpoint_every=5
)


def planned(seed: int, updates: int) -> PlannedRun:
    plan = MeasurementPlan((1, updates), stage_steps=(1,), tasks=2, stage_tasks=2)
    return PlannedRun(f"seed {seed}", replace(SMALL, seed=seed, updates=updates), plan)
