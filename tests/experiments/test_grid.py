"""The runs behind figures: trained once, whoever asks; stopped or killed, they go on."""

from dataclasses import replace

import pytest

from metacontrast.errors import InputError, InUseError
from metacontrast.experiments import runs
from metacontrast.experiments.figures import FIGURES
from metacontrast.experiments.measurement import decode_counts
from metacontrast.experiments.runners import Grid, RunContext, RunReport, RunStatus, execute_all, run_locally
from metacontrast.experiments.runs import PlannedRun, all_runs, planned_runs
from metacontrast.experiments.setting import MeasurementPlan, Setting
from metacontrast.files import exclusive
from metacontrast.training.config import TrainConfig
from metacontrast.training.records import read_records

CONFIG = TrainConfig(
    dataset="glyphs", filters=2, queries=2, meta_batch=1, eval_every=0, eval_episodes=2, checkpoint_every=1
)
SCHEDULE = MeasurementPlan((2, 4), stage_steps=(1,), tasks=2, stage_tasks=2)


def planned(updates: tuple[int, ...] = (2, 4), **changes) -> PlannedRun:
    config = replace(CONFIG, updates=updates[-1], **changes)
    return PlannedRun("a run", config, replace(SCHEDULE, updates=updates))


def never() -> bool:
    return False


def executed(runs: list[PlannedRun], context: RunContext, jobs: int) -> list[RunReport]:
    return list(execute_all(Grid(runs, context, jobs, never), run_locally))


@pytest.mark.parametrize("scale", ["smoke", "local", "full"])
@pytest.mark.parametrize("protocol", ["authors", "paper"])
def test_figures_share_runs_and_agree_on_what_is_measured(scale, protocol):
    setting = Setting(scale, protocol)
    apart = sum(len(all_runs([figure], setting)) for figure in FIGURES.values())
    together = all_runs(list(FIGURES.values()), setting)
    assert len(together) < apart
    assert len({run.key for run in together}) == len(together)


def test_runs_of_claims_are_those_that_they_compare():
    """A claim's runs are those of the curves that it compares, and no others."""
    setting = Setting("local", seeds=5)
    for figure in FIGURES.values():
        everything = {run.key for run in all_runs([figure], setting)}
        for number, claim in enumerate(figure.claims(setting), 1):
            chosen = all_runs([figure], setting, [number])
            assert {run.key for run in chosen} <= everything
            compared = {(c.kind, endpoint.curve) for c in claim.comparisons for endpoint in c.endpoints}
            curves = [curve for curve in figure.curves(setting) if (curve.kind, curve.name) in compared]
            assert {run.key for run in chosen} == {run.key for run in planned_runs(curves)}
    figure = FIGURES["initialization-and-zeroing"]
    assert {run.config.dataset for run in all_runs([figure], setting, [5])} == {"omniglot"}
    assert len(all_runs([figure], setting, [5])) == 2 * 3 * 5
    with pytest.raises(InputError, match="no claim 8: it has 1 to 7"):
        all_runs([figure], setting, [8])


def test_every_verdict_rests_on_three_seeds_or_more():
    setting = Setting("local")
    assert all(len(curve.seeds) >= 3 for figure in FIGURES.values() for curve in figure.curves(setting))


def test_the_local_grid_holds_the_released_omniglot_heads_at_300_updates():
    """The issue's must-hold row: what Fig. 12 is compared at is trained exactly so."""
    curves = FIGURES["initialization-and-zeroing"].curves(Setting("local"))
    omniglot = [curve for curve in curves if curve.config.dataset == "omniglot"]
    assert {(curve.name, curve.config.shots) for curve in omniglot} == {
        (head, shots) for head in ("random", "random × 0.5", "zero init", "zeroing trick") for shots in (1, 5)
    }
    for curve in omniglot:
        config = curve.configs()[0]
        assert (config.updates, config.split_scheme, config.meta_batch, config.inner_steps) == (300, "released", 32, 2)
        assert curve.plan.evaluation(300).steps[0] == 1
        assert "zeroed" in curve.plan.heads


def test_two_lines_with_the_same_training_are_one_run():
    one = FIGURES["initialization-and-zeroing"].curves(Setting("local"))
    other = FIGURES["zeroing-at-test"].curves(Setting("local"))
    shared = {run.key for run in planned_runs(one)} & {run.key for run in planned_runs(other)}
    assert len(shared) == len(planned_runs(other))


def test_one_run_with_two_plans_is_refused():
    curve = FIGURES["second-order-one-shot"].curves(Setting("smoke"))[0]
    with pytest.raises(InputError, match="one run with two plans"):
        planned_runs([curve, replace(curve, plan=replace(curve.plan, tasks=7))])


def test_the_number_of_updates_and_what_is_measured_do_not_name_a_run():
    assert planned((2,)).key == planned((2, 4)).key
    assert planned(checkpoint_every=7).key == planned().key
    assert planned(seed=1).key != planned().key
    assert planned(inner_lr=0.3).key != planned().key


def test_a_longer_run_continues_a_shorter_one(tmp_path):
    context = RunContext(tmp_path)
    assert planned((2,)).execute(context, never) is RunStatus.COMPLETE
    first = planned((2,)).measured(tmp_path)
    longer = planned((2, 4))
    assert not longer.is_complete(tmp_path)
    assert longer.execute(context, never) is RunStatus.COMPLETE
    assert longer.measured(tmp_path)[2]["values"] == first[2]["values"]
    trained = [r for r in read_records(longer.folder(tmp_path) / "records.jsonl") if r["kind"] == "training"]
    assert [record["update"] for record in trained] == [1, 2, 3, 4]


def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path):
    """The process dies after update 3 of 4 without a chance to save more than its last checkpoint."""
    run, asked = planned(), []

    def dies() -> bool:
        asked.append(True)
        if len(asked) == 3:
            raise MemoryError
        return False

    with pytest.raises(MemoryError):
        run.execute(RunContext(tmp_path / "killed"), dies)
    assert not run.is_complete(tmp_path / "killed")
    for name in ("killed", "whole"):
        assert run.execute(RunContext(tmp_path / name), never) is RunStatus.COMPLETE
    assert run.measured(tmp_path / "killed") == run.measured(tmp_path / "whole")


def test_a_complete_run_is_not_touched(tmp_path):
    planned().execute(RunContext(tmp_path), never)
    files = {path: path.stat().st_mtime_ns for path in planned().folder(tmp_path).rglob("*")}
    assert planned().execute(RunContext(tmp_path), never) is RunStatus.COMPLETE
    assert files == {path: path.stat().st_mtime_ns for path in planned().folder(tmp_path).rglob("*")}


def test_a_run_measured_on_other_images_is_refused(tmp_path, monkeypatch):
    planned().execute(RunContext(tmp_path), never)
    load = runs.load_split

    def inverted(*arguments):
        images = load(*arguments)
        return replace(images, images=255 - images.images)

    monkeypatch.setattr(runs, "load_split", inverted)
    more = replace(planned(), plan=replace(planned().plan, stage_tasks=6))
    with pytest.raises(InputError, match="was trained on other data"):
        more.execute(RunContext(tmp_path), never)


def test_a_length_that_was_trained_past_without_a_copy_is_said(tmp_path):
    planned((2, 4)).execute(RunContext(tmp_path), never)
    assert planned((2,)).execute(RunContext(tmp_path), never) is RunStatus.COMPLETE
    with pytest.raises(InputError, match="for 4 updates and keeps no copy of the model after 3: ask for 4"):
        planned((2, 3)).execute(RunContext(tmp_path), never)


def test_a_run_that_another_process_works_on_is_left_alone(tmp_path):
    run = planned()
    with exclusive(tmp_path / f".{run.folder(tmp_path).name}.lock", "held"), pytest.raises(InUseError):
        run.execute(RunContext(tmp_path), never)


def test_a_run_that_fails_does_not_stop_the_others(tmp_path):
    bad = planned(shots=19, queries=15)
    found = {report.run.key: report for report in executed([bad, planned()], RunContext(tmp_path), 1)}
    assert found[planned().key].status is RunStatus.COMPLETE
    assert found[bad.key].status is RunStatus.FAILED
    assert "shots=19 and queries=15 need 34" in found[bad.key].reason


@pytest.mark.slow  # `test_sweeps.py` compares the records of trainings in the same processes
def test_runs_in_two_processes_give_the_numbers_of_one(tmp_path):
    runs = [planned(seed=seed) for seed in (0, 1)]
    for jobs in (1, 2):
        found = executed(runs, RunContext(tmp_path / str(jobs)), jobs)
        assert {report.status for report in found} == {RunStatus.COMPLETE}
    for run in runs:
        assert run.measured(tmp_path / "1") == run.measured(tmp_path / "2")


def test_correct_counts_per_task_are_kept(tmp_path):
    """Every mean is the mean of its counts, and the tasks of a smaller number are the first of a larger one."""
    run = planned()
    run.execute(RunContext(tmp_path), never)
    few = run.measured(tmp_path)[4]
    assert set(few["correct"]) == set(few["values"])
    for name, text in few["correct"].items():
        assert decode_counts(text).mean() / few["queries"] == pytest.approx(few["values"][name], abs=1e-5)
    more = replace(run, plan=replace(run.plan, stage_tasks=6))
    assert more.missing(tmp_path) == [4]
    more.execute(RunContext(tmp_path), never)
    assert {name: text[:2] for name, text in more.measured(tmp_path)[4]["correct"].items()} == few["correct"]


def test_means_of_an_older_version_are_measured_again():
    """What was measured without counts per task does not suffice."""
    counted = {"tasks": 2, "values": {"zeroed/1": 0.5, "nearest-mean": 0.5}}
    assert planned().lacking({2: counted, 4: counted}) == [2, 4]
    assert planned().lacking({u: counted | {"correct": dict.fromkeys(counted["values"], "55")} for u in (2, 4)}) == []


@pytest.mark.parametrize(("until", "ends"), [(100, {100}), (700, {700}), (10**6, {3000, 30_000})])
def test_a_length_in_updates_cuts_every_run_but_never_exceeds_the_published_one(until, ends):
    setting = Setting(until=until)
    curves = FIGURES["initialization-and-zeroing"].curves(setting)
    assert {curve.plan.end for curve in curves} == ends
    for curve in curves:
        assert curve.plan.evaluation(curve.plan.end).episodes == 1000


def test_runs_of_all_lengths_are_the_same_runs():
    """So that a longer length continues what is there."""
    keys = [
        {run.key for run in all_runs([FIGURES["zeroing-at-test"]], setting)}
        for setting in (Setting("local"), Setting("full"), Setting(until=1234))
    ]
    assert keys[0] == keys[1] == keys[2]
