"""Two grids over one folder at once: every run is trained once, and both end with everything complete."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from metacontrast.experiments.runs import PlannedRun
from metacontrast.experiments.setting import MeasurementPlan
from metacontrast.training.config import TrainConfig
from metacontrast.training.records import read_records

GRID = """
import json, sys, time
from pathlib import Path
from metacontrast.experiments import runners, runs
from metacontrast.experiments.runners import run_locally
from metacontrast.experiments.setting import MeasurementPlan
from metacontrast.training.config import TrainConfig

root, trained, train = Path(sys.argv[1]), [], runs.train_run

def counted(config, *rest, **named):
    trained.append(config.seed)
    return train(config, *rest, **named)

runs.train_run = counted
runners.RETRY_SECONDS = 0.2
plan = MeasurementPlan((40,), stage_steps=(1,), tasks=2, stage_tasks=2)
configs = [TrainConfig(**values) for values in json.loads(sys.argv[2])]
planned = [runs.PlannedRun("a run", config, plan) for config in configs]
(root / sys.argv[3]).touch()
while not (root / "go").exists():
    time.sleep(0.01)
grid = runners.Grid(planned, runners.RunContext(root / "runs"), 1, lambda: False)
outcomes = [report.status.value for report in runners.execute_all(grid, run_locally)]
print(json.dumps({"trained": trained, "outcomes": outcomes}))
"""
VALUES = {"dataset": "glyphs", "filters": 2, "queries": 2, "meta_batch": 2, "eval_every": 0, "eval_episodes": 2}
SEEDS = range(3)


def planned(seed: int) -> PlannedRun:
    plan = MeasurementPlan((40,), stage_steps=(1,), tasks=2, stage_tasks=2)
    return PlannedRun("a run", replace(TrainConfig(**VALUES), seed=seed, updates=40), plan)


def start(root: Path, name: str) -> subprocess.Popen[str]:
    configs = json.dumps([VALUES | {"seed": seed, "updates": 40} for seed in SEEDS])
    return subprocess.Popen(
        [sys.executable, "-c", GRID, str(root), configs, name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_grids_at_once_train_every_run_once(tmp_path):
    """Both wait for one another before they begin, so that they want the same first run at the same moment."""
    grids = [start(tmp_path, name) for name in ("a", "b")]
    while not all((tmp_path / name).exists() for name in ("a", "b")):
        assert all(grid.poll() is None for grid in grids), [grid.communicate() for grid in grids]
        time.sleep(0.01)
    (tmp_path / "go").touch()
    found = [json.loads(grid.communicate()[0]) for grid in grids]
    assert all(grid.returncode == 0 for grid in grids)
    assert [each["outcomes"] for each in found] == [["complete"] * len(SEEDS)] * 2
    assert sorted(found[0]["trained"] + found[1]["trained"]) == list(SEEDS)
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "go").touch()
    start(lone, "c").communicate()
    for seed in SEEDS:
        run = planned(seed)
        records = [r for r in read_records(run.folder(tmp_path / "runs") / "records.jsonl") if r["kind"] == "training"]
        assert [record["update"] for record in records] == list(range(1, 41))
        assert run.measured(tmp_path / "runs") == run.measured(lone / "runs")
