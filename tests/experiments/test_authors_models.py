"""The authors' own models, measured on the common test tasks: generated checkpoints of their form."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from metacontrast.cli.main import run
from metacontrast.data.images import ClassImages, group_by_class
from metacontrast.errors import InputError
from metacontrast.experiments import authors_models
from metacontrast.experiments.authors_models import (
    HEAD_ONLY,
    WHOLE,
    find_runs,
    load_authors,
    measure_again,
    measure_all,
)
from metacontrast.experiments.figure_records import read_run_records
from metacontrast.experiments.figures import AUTHORS_TESTS, FIGURES, answers_at_test, steps_at_test
from metacontrast.experiments.measurement import decode_counts
from metacontrast.experiments.setting import Setting
from metacontrast.training.evaluate import evaluate
from metacontrast.training.recipes import recipe
from metacontrast.training.step import Resources
from metacontrast.types import to_tensors

TASKS = 2
STEPS, ANSWERS = (replace(each.SPEC.authors_test, tasks=TASKS) for each in (steps_at_test, answers_at_test))
FILES = {
    "exact_contrastiveness/mini_maml_SO_init1_seed1": {"model_E0.pt": 4, "model_E1.pt": 8, "final_model_E1.pt": 8},
    "exact_contrastiveness/mini_contrastive_FO_seed0_IFR1_q_contrast": {"model_E0.pt": 4},
    "exact_contrastiveness/mini_contrastive_FO_seed2_IFR0_zero_w": {"model_E0.pt": 4},
    "testing_stage_zeroing/mini_5w1s15q_FO_zero1_initvar1.0_seed225": {"E11S200.pt": 12, "E2S2400.pt": 5},
}


def checkpoint(updates: int) -> dict:
    model = recipe("mini-imagenet-5w1s-released").model((3, 84, 84))
    tensors = to_tensors(model.init(torch.Generator().manual_seed(updates), head_init_scale=1.0))
    state = {f"vars.{i}": tensor for i, tensor in enumerate(tensors)}
    state |= {f"vars_bn.{i}": torch.zeros(len(tensors[0])) for i in range(8)}
    slots = {0: {"step": updates, "exp_avg": torch.zeros(1), "exp_avg_sq": torch.zeros(1)}}
    return {"model_state_dict": state, "optimizer_state_dict": {"state": slots, "param_groups": []}}


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "miniimagenet"
    for name, files in FILES.items():
        (folder / name).mkdir(parents=True)
        for file, updates in files.items():
            torch.save(checkpoint(updates), folder / name / file)
    return folder


def pictures(*_: object) -> ClassImages:
    generator = np.random.default_rng(0)
    classes = [(f"class{c}", generator.integers(0, 256, (20, 3, 84, 84)).astype(np.uint8)) for c in range(5)]
    return group_by_class("mini-imagenet/test", classes)


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(authors_models, "load_split", pictures)


def test_runs_are_known_by_their_folders(released):
    found = {run.folder.name: (run.kind, run.curve, run.seed) for run in find_runs(released.parent)}
    assert found == {
        "mini_maml_SO_init1_seed1": (HEAD_ONLY, "MAML, SO, random", 1),
        "mini_contrastive_FO_seed0_IFR1_q_contrast": (HEAD_ONLY, "no noise", 0),
        "mini_contrastive_FO_seed2_IFR0_zero_w": (HEAD_ONLY, "mini_contrastive_FO_IFR0_zero_w", 2),
        "mini_5w1s15q_FO_zero1_initvar1.0_seed225": (WHOLE, "zeroing trick", 225),
    }


def test_a_folder_without_their_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match="none of the authors' runs: give the results/miniimagenet"):
        find_runs(tmp_path)


def test_every_checkpoint_is_measured_once_the_last_ones_first_and_goes_on(released, tmp_path):
    runs = find_runs(released)
    steps = measure_all(runs, tmp_path, None, Resources("cpu"), TASKS)
    first = [next(steps) for _ in range(2)]
    steps.close()
    rest = list(measure_all(runs, tmp_path, None, Resources("cpu"), TASKS))
    assert len(first) + len(rest) == 6
    done = [line.partition(": ")[0] for line in first + rest]
    assert set(done[:4]) == {
        "mini_maml_SO_init1_seed1, model_E1.pt",
        "mini_contrastive_FO_seed0_IFR1_q_contrast, model_E0.pt",
        "mini_contrastive_FO_seed2_IFR0_zero_w, model_E0.pt",
        "mini_5w1s15q_FO_zero1_initvar1.0_seed225, E11S200.pt",
    }
    assert list(measure_all(runs, tmp_path, None, Resources("cpu"), TASKS)) == []


def test_records_hold_the_counts_that_evaluate_averages(released, tmp_path):
    """At the reformulated runs' own rate of 0.1 and one step, and with the recipe's rate for the run of Fig. 3."""
    list(measure_all(find_runs(released), tmp_path, None, Resources("cpu"), TASKS))
    rates = {}
    for file in (tmp_path / "authors").glob("*.jsonl"):
        records = read_run_records(file)
        rates[file.stem] = (records.header["inner"]["lr"], records.header["inner"]["steps"])
        for record in records.measured.values():
            assert (record["tasks"], record["queries"], len(record["sha256"])) == (TASKS, 75, 64)
            for name in ("kept/1", "zeroed/1", "nearest-mean"):
                counts = decode_counts(record["correct"][name])
                assert counts.mean() / 75 == pytest.approx(record["values"][name], abs=1e-5)
    assert rates["mini_maml_SO_init1_seed1"] == (0.1, 1)
    assert rates["mini_5w1s15q_FO_zero1_initvar1.0_seed225"] == (0.01, 5)
    trained = authors_models.load_released(
        released / "exact_contrastiveness/mini_maml_SO_init1_seed1/model_E1.pt",
        dataset="mini-imagenet",
        inner_lr=0.1,
        inner_steps=1,
    )
    tasks = authors_models.common_tasks(trained, pictures())
    evaluation = authors_models.Evaluation((1,), ("kept", "zeroed"), TASKS)
    rows = evaluate(trained.model, trained.params, tasks, trained.config.inner(), evaluation)
    values = read_run_records(tmp_path / "authors" / "mini_maml_SO_init1_seed1.jsonl").measured[8]["values"]
    assert list(values.values()) == pytest.approx([row.accuracy for row in rows], abs=1e-5)


def test_the_command_measures_records_and_draws(released, tmp_path, monkeypatch, capsys):
    """Nothing is trained; the page says whose models they are."""
    monkeypatch.setattr("metacontrast.cli.figure.measure_all", partial(measure_all, tasks=TASKS))
    words = ["figure", "comparing-features", "--authors-models", str(released)]
    assert run([*words, "--records", str(tmp_path), "--pages", str(tmp_path / "pages")]) == 0
    assert "mini_maml_SO_init1_seed1, model_E1.pt: update 8" in capsys.readouterr().err
    assert len(load_authors(tmp_path, AUTHORS_TESTS)) == 6


def test_more_steps_and_orders_of_labels_are_measured_from_the_head_of_the_training(released, tmp_path, capsys):
    """Of second-order MAML alone, once; one seed decides nothing, but the page stands and says how to go on."""
    runs = find_runs(released)
    done = list(measure_again(STEPS, runs, tmp_path, None, Resources("cpu")))
    assert done == ["mini_maml_SO_init1_seed1, model_E1.pt: 1, 5, 20 inner steps, nearest-mean"]
    assert list(measure_again(STEPS, runs, tmp_path, None, Resources("cpu"))) == []
    measured = read_run_records(tmp_path / "authors-steps" / "mini_maml_SO_init1_seed1.jsonl").measured
    names = {"kept/1", "kept/5", "kept/20", "nearest-mean"}
    assert {*measured[8]["correct"]} == names
    assert {*measured[8]["values"]} == names | {"label order"}
    assert run(["figure", "steps-at-test", "--redraw", "--records", str(tmp_path), "--pages", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("NOT TESTABLE YET") == 3
    page = (tmp_path / "steps-at-test.md").read_text(encoding="utf-8")
    assert "metacontrast figure steps-at-test --authors-models DIR" in page


def test_the_order_of_labels_has_no_effect_on_a_head_that_is_zeroed(released, tmp_path):
    folder = tmp_path / "mini_maml_SO_zero_seed0"
    folder.mkdir()
    torch.save(checkpoint(8), folder / "model_E1.pt")
    list(measure_again(STEPS, find_runs(tmp_path), tmp_path, None, Resources("cpu")))
    measured = read_run_records(tmp_path / "authors-steps" / f"{folder.name}.jsonl").measured
    assert measured[8]["values"]["label order"] <= 1 / 75  # a tie that rounding breaks
    assert "zeroed/20" in measured[8]["values"]


def test_ways_to_classify_are_measured_on_features_in_five_shot(released, tmp_path, capsys):
    """Of every way of training that the figure names, from a head of zeros, which alone moves."""
    done = list(measure_again(ANSWERS, find_runs(released), tmp_path, None, Resources("cpu")))
    assert [each.split(",")[0] for each in done] == [
        "mini_contrastive_FO_seed0_IFR1_q_contrast",
        "mini_maml_SO_init1_seed1",
    ]
    records = read_run_records(tmp_path / "authors-answers" / "mini_maml_SO_init1_seed1.jsonl")
    assert records.header["inner"]["scope"] == "head"
    assert {*records.measured[8]["correct"]} == {
        *("zeroed/1", "zeroed/10", "nearest-mean", "nearest-cosine", "ridge", "logistic")
    }
    five = authors_models.load_released(
        released / "exact_contrastiveness/mini_maml_SO_init1_seed1/model_E1.pt",
        dataset="mini-imagenet",
        shots=5,
        inner_lr=0.1,
        inner_scope="head",
    )
    tasks = authors_models.common_tasks(five, pictures())
    rows = evaluate(
        five.model,
        five.params,
        tasks,
        five.config.inner(),
        authors_models.Evaluation((1, 10), ("zeroed",), TASKS, ANSWERS.solvers),
    )
    assert [*records.measured[8]["values"].values()] == pytest.approx([row.accuracy for row in rows], abs=1e-5)
    with pytest.raises(InputError, match=r"of tasks with another number of shots: restore or remove it"):
        list(measure_again(replace(ANSWERS, shots=1), find_runs(released), tmp_path, None, Resources("cpu")))
    assert run(["figure", "answers-at-test", "--redraw", "--records", str(tmp_path), "--pages", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("NOT TESTABLE YET") == 3


def test_records_that_are_not_named_like_their_runs_are_refused(tmp_path):
    (tmp_path / "authors").mkdir()
    (tmp_path / "authors" / "other.jsonl").write_text('{"kind": "header", "made": []}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"other\.jsonl is not named like"):
        load_authors(tmp_path)


def test_what_the_claims_ask_of_the_authors_models_is_among_their_lines():
    asked = {
        endpoint.curve
        for spec in FIGURES.values()
        for claim in spec.claims(Setting())
        for comparison in (*claim.of_authors, *claim.comparisons)
        if comparison.kind.is_authors
        for endpoint in comparison.endpoints
    }
    assert asked
    assert asked <= set(authors_models._NAMES.values())
