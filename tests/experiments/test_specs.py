"""What the figures declare fits together: claims read what curves measure, in every setting."""

from functools import cache
from pathlib import Path

import pytest

from metacontrast.diagnostics.task_view import MAPS
from metacontrast.experiments.authors_models import load_authors
from metacontrast.experiments.claims import Accuracy
from metacontrast.experiments.figures import FIGURES
from metacontrast.experiments.measurement import Table, measured_names
from metacontrast.experiments.rows import numbers_rows
from metacontrast.experiments.setting import STAGE_TASKS, Setting, base_config
from metacontrast.experiments.spec import Curve, FigureSpec, Measurement
from metacontrast.experiments.verdicts import judge

SETTINGS = [Setting(scale, protocol) for scale in ("smoke", "local", "full") for protocol in ("authors", "paper")]


def invented(curves: list[Curve]) -> list[Measurement]:
    """Everything that the curves measure, with an accuracy that grows with updates and seeds; means of equal tasks."""
    return [
        Measurement(
            curve.kind,
            curve.name,
            seed,
            {
                "update": update,
                "tasks": STAGE_TASKS,
                "values": dict.fromkeys(measured_names(curve.plan, update), (update + seed) / 100_000),
                "maps": {name: [[update / 100_000]] for name in MAPS},
            },
        )
        for curve in curves
        for seed in curve.seeds
        for update in curve.updates
    ]


@cache
def table_of(name: str, setting: Setting) -> Table:
    spec = FIGURES[name]
    if spec.authors_test is not None:
        return Table([], load_authors(Path(__file__).parents[2] / "results" / "figures", [spec.authors_test]))
    curves = spec.curves(setting)
    return Table(curves, spec.compute() if spec.compute else invented(curves))


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.folder)
@pytest.mark.parametrize("spec", FIGURES.values(), ids=FIGURES)
def test_claims_and_tables_read_what_is_measured(spec: FigureSpec, setting: Setting):
    table = table_of(spec.name, setting)
    verdicts = [judge(claim, table) for claim in spec.claims(setting)]
    assert verdicts
    for panel in spec.panels(setting):
        if isinstance(panel.quantity, Accuracy) and spec.authors_test is None:
            assert numbers_rows(panel, table)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.folder)
@pytest.mark.parametrize("spec", FIGURES.values(), ids=FIGURES)
def test_compared_lines_are_taken_after_as_many_updates_on_as_many_tasks(spec: FigureSpec, setting: Setting):
    table = table_of(spec.name, setting)
    for claim in spec.claims(setting):
        for comparison in claim.comparisons:
            endpoints = list(comparison.endpoints)
            for when in {endpoint.when for endpoint in endpoints}:
                stages = [table.stage(comparison.kind, [endpoint], when) for endpoint in endpoints]
                assert None not in stages, comparison
                assert stages == [table.stage(comparison.kind, endpoints, when)] * len(stages), comparison


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.folder)
def test_every_line_is_labelled_once_in_its_panel(setting):
    for spec in FIGURES.values():
        names = [(curve.kind, curve.name) for curve in spec.curves(setting)]
        assert len(set(names)) == len(names), spec.name


def test_the_authors_protocol_has_its_settings():
    """PROTOCOL 1.1: 5 inner steps and a pool of 10,000 tasks on colour images, 2 steps and fresh tasks on Omniglot."""
    colour, omniglot = (base_config(Setting(), family, 1) for family in ("colour", "omniglot"))
    assert (colour.inner_steps, colour.inner_lr, colour.pool_size, colour.meta_batch) == (5, 0.01, 10_000, 4)
    assert (omniglot.inner_steps, omniglot.inner_lr, omniglot.pool_size, omniglot.meta_batch) == (2, 0.4, None, 32)
    assert base_config(Setting(), "colour", 5).meta_batch == 2


def test_the_reformulated_runs_move_the_head_alone_in_training_and_everything_at_test():
    for name in ("exact-reformulation", "dropping-interference-and-noise"):
        for curve in FIGURES[name].curves(Setting()):
            config = curve.config
            assert (config.inner_scope, config.inner_steps, config.inner_lr, config.head_bias) == (
                "head",
                1,
                0.1,
                False,
            )
            assert curve.plan.scope == "all"


@pytest.mark.parametrize(("protocol", "labels"), [("paper", {"bound"}), ("authors", {"bound-uneven", "bound-tuples"})])
def test_memorization_binds_labels_as_the_protocol_says(protocol, labels):
    curves = FIGURES["channel-memorization"].curves(Setting("local", protocol))
    bound = {curve.config.labels for curve in curves if "ordinary" not in curve.name}
    assert bound == labels


def test_the_fixed_task_is_of_test_classes_and_relabelled():
    for curve in FIGURES["feature-similarity"].curves(Setting()):
        config = curve.config
        assert (curve.train_split, config.pool_size, config.relabel, config.shots, config.queries) == (
            "test",
            1,
            True,
            20,
            20,
        )
        assert (len(curve.seeds), curve.updates) == (10, (1, 11, 101))
