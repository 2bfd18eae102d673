"""What the figures declare fits together: claims read what lines measure, in every setting."""

import pytest

from metacontrast.diagnostics.similarity import MAPS
from metacontrast.experiments.catalog import FIGURES
from metacontrast.experiments.measurement import measured_names
from metacontrast.experiments.setting import Setting, base_config
from metacontrast.experiments.spec import FigureSpec, Line
from metacontrast.experiments.table import Table
from metacontrast.experiments.tables import numbers_rows
from metacontrast.experiments.verdicts import judge

SETTINGS = [Setting(scale, protocol) for scale in ("smoke", "local", "full") for protocol in ("released", "paper")]


def invented(lines: list[Line]) -> list[dict]:
    """Everything that the lines measure, with an accuracy that grows with updates and seeds."""
    return [
        {
            "panel": line.panel,
            "line": line.name,
            "seed": seed,
            "update": update,
            "tasks": line.schedule.tasks_at(update),
            "values": dict.fromkeys(measured_names(line.schedule, update), (update + seed) / 100_000),
            "maps": {name: [[update / 100_000]] for name in MAPS},
        }
        for line in lines
        for seed in line.seeds
        for update in line.updates
    ]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.folder)
@pytest.mark.parametrize("spec", FIGURES.values(), ids=FIGURES)
def test_claims_and_tables_read_what_is_measured(spec: FigureSpec, setting: Setting):
    lines = spec.lines(setting)
    measurements = spec.compute() if spec.compute else invented(lines)
    table = Table(lines, measurements)
    verdicts = [judge(claim, table) for claim in spec.claims(setting)]
    assert verdicts
    for view in spec.views(setting):
        if "/" in view.quantity:
            assert numbers_rows(view, table)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.folder)
@pytest.mark.parametrize("spec", FIGURES.values(), ids=FIGURES)
def test_compared_lines_are_taken_after_as_many_updates_on_as_many_tasks(spec: FigureSpec, setting: Setting):
    lines = spec.lines(setting)
    table = Table(lines, spec.compute() if spec.compute else invented(lines))
    for claim in spec.claims(setting):
        for comparison in claim.comparisons:
            readings = [*comparison.plus, *comparison.minus]
            for when in {reading.when for reading in readings}:
                stages = [table.stage(comparison.panel, [reading], when) for reading in readings]
                assert None not in stages, comparison
                assert stages == [table.stage(comparison.panel, readings, when)] * len(stages), comparison


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.folder)
def test_every_line_is_labelled_once_in_its_panel(setting):
    for spec in FIGURES.values():
        names = [(line.panel, line.name) for line in spec.lines(setting)]
        assert len(set(names)) == len(names), spec.name


def test_the_released_protocol_has_its_settings():
    """PROTOCOL 1.1: 5 inner steps and a pool of 10,000 tasks on colour images, 2 steps and fresh tasks on Omniglot."""
    colour, omniglot = (base_config(Setting(), family, 1) for family in ("colour", "omniglot"))
    assert (colour.inner_steps, colour.inner_lr, colour.pool_size, colour.meta_batch) == (5, 0.01, 10_000, 4)
    assert (omniglot.inner_steps, omniglot.inner_lr, omniglot.pool_size, omniglot.meta_batch) == (2, 0.4, None, 32)
    assert base_config(Setting(), "colour", 5).meta_batch == 2


def test_the_reformulated_runs_move_the_head_alone_in_training_and_everything_at_test():
    for name in ("exact-reformulation", "dropping-interference-and-noise"):
        for line in FIGURES[name].lines(Setting()):
            config = line.config
            assert (config.inner_scope, config.inner_steps, config.inner_lr, config.head_bias) == (
                "head",
                1,
                0.1,
                False,
            )
            assert line.schedule.scope == "all"


@pytest.mark.parametrize(("protocol", "labels"), [("paper", {"bound"}), ("released", {"bound-uneven", "bound-tuples"})])
def test_memorization_binds_labels_as_the_protocol_says(protocol, labels):
    lines = FIGURES["channel-memorization"].lines(Setting("local", protocol))
    bound = {line.config.labels for line in lines if "ordinary" not in line.name}
    assert bound == labels


def test_the_fixed_task_is_of_test_classes_and_relabelled():
    for line in FIGURES["feature-similarity"].lines(Setting()):
        config = line.config
        assert (line.train_split, config.pool_size, config.relabel, config.shots, config.queries) == (
            "test",
            1,
            True,
            20,
            20,
        )
        assert (len(line.seeds), line.updates) == (10, (1, 11, 101))
