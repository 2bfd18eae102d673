"""The figure of all methods at one budget: chosen models, core-time, tables; and the linear representation."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from metacontrast.cli.main import run
from metacontrast.data.catalog import load_dataset
from metacontrast.errors import InputError
from metacontrast.experiments import budgets
from metacontrast.experiments.budgets import ANSWERS, OWN, budget_rows, rank_correlations
from metacontrast.experiments.figures import FIGURES, family, find_figures
from metacontrast.experiments.figures import linear_representations as linear
from metacontrast.experiments.measurement import CORE_SECONDS, LABEL_ORDER, Table
from metacontrast.experiments.runners import RunContext, RunStatus
from metacontrast.experiments.runs import MEASURED_FILE, PlannedRun, _train_to, core_seconds, run_key
from metacontrast.experiments.setting import MeasurementPlan, Setting
from metacontrast.experiments.spec import Measurement
from metacontrast.maml.engine import meta_gradient
from metacontrast.methods import METHODS
from metacontrast.model.model import Model
from metacontrast.training.config import with_fields
from metacontrast.training.records import read_records
from metacontrast.training.run import BEST, load_run, model_copy
from metacontrast.training.step import Resources
from metacontrast.types import Episode, Head, Inner, Params
from planned_runs import SMALL, planned

SMOKE = Setting("smoke")
GLYPHS = load_dataset("glyphs", "test")
FEW = {name: family._METHODS[name] for name in ("maml", "maml++", "supervised")}


def figure(root, *words):
    """Three of the methods at smoke scale, without the variants of MAML."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(family, "_METHODS", FEW)
        patch.setattr(family, "_STARTS", {})
        places = ("--out", str(root / "runs"), "--records", str(root / "records"), "--pages", str(root / "pages"))
        assert run(["figure", "family", "--scale", "smoke", "--jobs", "1", *places, *words]) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("family")
    figure(root)
    return root


def test_the_plan_lists_the_runs_with_their_cost_and_tells_what_is_there(made, tmp_path, capsys):
    figure(tmp_path, "--plan")
    first, *runs = capsys.readouterr().out.splitlines()
    assert first.startswith("family: 6 runs of its own, about ")
    assert len(runs) == 6
    assert all(": 2 updates, about " in each for each in runs)
    figure(made, "--plan")
    assert capsys.readouterr().out.count("2 updates, complete") == 6


def test_what_is_measured_is_not_measured_again(made, capsys, monkeypatch):
    monkeypatch.setattr("metacontrast.experiments.runs.measure", None)
    figure(made)
    assert "6 runs, 0 to train" in capsys.readouterr().err


def test_every_run_has_its_chosen_model_and_its_time(made):
    files = list((made / "records" / "smoke").glob("*.jsonl"))
    assert len(files) == 2 * len(FEW)
    for file in files:
        end = read_records(file)[-1]
        own = read_records(file)[0]["config"]["inner_steps"]
        every = {f"kept/{own}", "nearest-mean"}
        names = every | {
            f"selected {name}" for name in every | {"zeroed/1", "zeroed/5", "nearest-cosine", "ridge", "logistic"}
        }
        assert set(end["values"]) == names | {LABEL_ORDER, CORE_SECONDS}
        assert set(end["correct"]) == names
        assert end["values"][CORE_SECONDS] > 0
        method = read_records(file)[0]["config"]["method"]
        assert method == "maml++" or end["values"][LABEL_ORDER] == 0


def test_the_page_has_both_tables_and_one_picture(made):
    page = (made / "pages" / "family.md").read_text(encoding="utf-8")
    assert "![All methods at one budget: family](family.png)" in page
    assert "own head at equal core-time" in page
    assert "rank correlation" in page
    for name, _, _ in FEW.values():
        assert f"| {name} |" in page


def test_the_figure_has_every_method_that_is_trained_by_itself():
    """The contrastive loss is MAML's and has figures of its own."""
    assert set(family._METHODS) == set(METHODS) - {"contrastive"}


def test_all_methods_see_as_many_images_and_the_same_test_tasks():
    for curve in family.SPEC.curves(Setting("full", seeds=3)):
        config = curve.config
        assert config.meta_batch * config.ways * (config.shots + config.queries) > 0
        assert (config.encoder, config.eval_split, config.select) == ("conv4", "val", True)
        assert config.dataset in ("omniglot", "cifar-fs")
    by_kind = {}
    for curve in family.SPEC.curves(Setting("full")):
        config = curve.config
        seen = config.meta_batch * config.ways * (config.shots + config.queries) * curve.plan.end
        by_kind.setdefault(curve.kind, set()).add((seen, config.shots, config.queries, curve.plan.stage_tasks))
    assert all(len(each) == 1 for each in by_kind.values())
    assert len(by_kind) == 4


def test_a_training_that_depends_on_its_length_is_one_run_for_each():
    """Stopped early it goes on; set out for another length it is another run."""
    (curve, *_) = [each for each in family.SPEC.curves(Setting("local")) if each.config.method == "maml++"]
    assert curve.plan.end < curve.config_of(0).updates
    other = replace(curve.config, updates=curve.config.updates + 1)
    assert run_key(other, "train") != run_key(curve.config, "train")
    plain = replace(curve.config, method="maml", lr_schedule="constant")
    assert run_key(replace(plain, updates=7), "train") == run_key(plain, "train")


def invented(accuracies, seconds):
    """A table of curves with these accuracies at updates 1 and 2, and times of an update."""
    curves = family.SPEC.curves(SMOKE)[: len(accuracies)]
    measurements = []
    for curve, (first, second), taken in zip(curves, accuracies, seconds, strict=True):
        for update, value in ((1, first), (2, second)):
            values = dict.fromkeys([OWN.key(curve.config), *(q.key(curve.config) for q in ANSWERS.values())], value)
            record = {"update": update, "tasks": 2, "values": values | {CORE_SECONDS: taken}}
            measurements.append(Measurement(curve.kind, curve.name, 0, record))
    return curves, Table(curves, measurements)


def test_accuracy_at_equal_core_time_is_that_of_the_cheapest_ways_whole_time():
    """2 updates of 1 s are the budget: of 2 s one update, of 3 s none."""
    curves, table = invented([(0.3, 0.5), (0.4, 0.6), (0.2, 0.9)], [1.0, 2.0, 3.0])
    rows = budget_rows(curves, table)
    assert [row[1] for row in rows] == ["1", "2", "3"]
    assert [row[2] for row in rows] == ["50.0", "60.0", "90.0"]
    assert [row[-1] for row in rows] == ["50.0", "40.0", "—"]
    assert len(budgets.HEAD) == len(rows[0])
    correlations = rank_correlations(curves[0].kind, [curve.name for curve in curves], table, ANSWERS)
    assert len(correlations) == 21
    assert {row[2] for row in correlations} == {"+1.00"}


def test_all_curves_of_a_table_are_of_one_length():
    """One of them has gone further."""
    accuracies, seconds = [(0.3, 0.5), (0.4, 0.6), (0.2, 0.9)], [1.0, 2.0, 3.0]
    curves, table = invented(accuracies, seconds)
    further = table._records[curves[0].kind, curves[0].name][0]
    further[3] = further[2] | {"update": 3, "values": dict.fromkeys(further[2]["values"], 0.99) | {CORE_SECONDS: 1.0}}
    _, alone = invented(accuracies, seconds)
    assert budget_rows(curves, table)[1:] == budget_rows(curves, alone)[1:]
    assert budget_rows(curves, table)[0][2:-1] == budget_rows(curves, alone)[0][2:-1]


def test_all_methods_are_validated_equally_often(tmp_path, monkeypatch):
    """Training halts wherever something is measured, and validates where the configuration says."""
    lengths = []

    def halted(config, run, *images, on_record, should_stop):
        lengths.append(config.updates)
        on_record({"update": 4})
        return "stopped"

    monkeypatch.setattr("metacontrast.experiments.runs.train_run", halted)
    for selects in (True, False):
        run = planned(0, 8)
        run = replace(run, plan=replace(run.plan, selects=selects))
        assert _train_to(run, 4, tmp_path / str(selects), (GLYPHS, GLYPHS), Resources(), lambda: False)
    assert lengths == [8, 4]


def test_the_chosen_model_does_not_depend_on_how_far_a_run_was_asked_for():
    """A run that is continued validates where a longer one does."""
    lengths = (replace(Setting("local"), until=until) for until in (300, 600, None))
    curves = [{(c.kind, c.name): c.config for c in FIGURES["family"].curves(setting)} for setting in lengths]
    assert curves[0].keys() == curves[1].keys()
    for key, config in curves[0].items():
        assert len({found[key].eval_every for found in curves}) == 1
        assert config.eval_every <= 100


def test_a_best_model_of_later_is_not_that_of_an_earlier_end(tmp_path):
    """A run that was trained to 6 updates, whose best model is a later one, is asked for its first 3."""
    context = RunContext(tmp_path, None, "cpu")
    plan = MeasurementPlan((3, 6), stage_steps=(1,), tasks=2, stage_tasks=2, selects=True)
    config = replace(SMALL, updates=6, select=True, eval_split="val", eval_every=1)
    later = PlannedRun("later", config, plan)
    assert later.execute(context, lambda: False) is RunStatus.COMPLETE
    folder = later.folder(tmp_path)
    (folder / MEASURED_FILE).unlink()
    earlier = replace(later, plan=replace(plan, updates=(3,)))
    if load_run(folder / BEST).updates <= 3:
        shutil.copyfile(model_copy(folder, 6), folder / BEST)
    with pytest.raises(InputError, match="was trained further, and the best model that it keeps is that after"):
        earlier.execute(context, lambda: False)
    (folder / BEST).unlink()
    with pytest.raises(InputError, match="has chosen no model by validation after 3 updates: ask for more"):
        earlier.execute(context, lambda: False)


def test_the_time_of_an_update_is_that_of_all_the_training_where_it_changes(monkeypatch):
    """MAML++ is of first order in its first half."""
    seen = []

    class Step:
        def __call__(self, state, episodes):
            seen.append(state.updates / 1000)
            state.updates += 1

    monkeypatch.setattr("metacontrast.experiments.runs.outer_step", lambda *_: Step())
    config = with_fields(replace(SMALL, updates=1000), method="maml++")
    assert core_seconds(config, GLYPHS, Resources()) >= 0
    assert seen[1:] == [(each + 0.5) / 20 for each in range(20)]


def test_all_is_what_the_paper_has():
    names = {figure.name for figure in find_figures("all")}
    assert set(FIGURES) - names == {"family", "linear-representations", "steps-at-test", "answers-at-test"}


# A linear representation


@pytest.mark.parametrize("name", [name for name in linear._WAYS if "zeroed" not in name and "," in name])
def test_its_gradient_is_the_librarys_on_inputs_whose_mean_square_is_one(name):
    """With x = √d e_1 … √d e_d the mean loss over images is |Bw − v|²/2, as for x ~ N(0, I)."""
    way = linear._WAYS[name]
    if name == linear._PLAIN:
        return
    size, shared, tasks = 6, 2, 3
    g = torch.Generator().manual_seed(0)
    encoder, head = torch.randn(1, size, shared, generator=g).double(), torch.randn(1, shared, generator=g).double()
    targets = torch.randn(1, tasks, size, generator=g).double()
    found = linear.outer_gradient(encoder, head, targets, way, 0.1)
    x = size**0.5 * torch.eye(size).double().expand(tasks, size, size)
    y = size**0.5 * targets[0]
    model = Model(nn.Linear(size, shared, bias=False), 1, shared, head_bias=False)
    params = Params({"weight": encoder[0].T.contiguous()}, Head(head, None))
    inner = Inner(
        1,
        0.1,
        "all" if way.adapts_encoder else "head",
        "second" if way.second else "first",
        loss=lambda outputs, labels: ((outputs[:, 0] - labels) ** 2).mean() / 2,
    )
    gradient, _ = meta_gradient(model, params, Episode(x, y, x, y), inner)
    assert torch.allclose(found[0][0].T, gradient.encoder["weight"], rtol=1e-12, atol=1e-12)
    assert torch.allclose(found[1], gradient.head.weight, rtol=1e-12, atol=1e-12)


def test_the_distance_of_spaces_is_the_sine_of_their_angle():
    basis = torch.eye(3).double()[None, :, :1]
    turned = torch.tensor([[[0.6], [0.8], [0.0]]]).double()
    assert linear.distance(5 * turned, basis).item() == pytest.approx(0.8)
    assert linear.distance(-basis, basis).item() == pytest.approx(0)
    assert linear.distance(basis * float("nan"), basis).item() == 1


def test_which_of_its_trainings_diverge():
    """The page says so of first-order MAML from a large head, on 7 of 8 seeds."""
    diverged = {name: linear._trained(name)[linear._UPDATES].count(1) for name in linear._WAYS}
    assert {name: seeds for name, seeds in diverged.items() if seeds} == {"MAML, first order, large head": 7}
    assert min(linear._trained("MAML, first order, large head")[linear._UPDATES]) < 1e-3


def test_its_verdicts(tmp_path, capsys):
    """What Collins et al. prove, where it ends, and the effect of a zeroed head: decided on eight seeds in seconds."""
    assert run(["figure", "linear-representations", "--redraw", "--pages", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("  SUPPORTED: ") == 3
    assert (tmp_path / "linear-representations.png").exists()
