"""Seeds and variants: which runs there are, and in which folders."""

import pytest

from metacontrast.errors import InputError
from metacontrast.training.config import TrainConfig
from metacontrast.training.recipes import first_run, sweep_configs

SMALL = TrainConfig(seed=5)


def test_seeds_follow_one_another_and_the_first_run_is_the_lowest(tmp_path):
    assert [(str(run), c.seed) for run, c in sweep_configs(SMALL, 3).items()] == [
        ("seed-5", 5),
        ("seed-6", 6),
        ("seed-7", 7),
    ]
    for wrong in (0, 10**12):
        with pytest.raises(InputError, match=f"seeds={wrong}, but it must be 1 to 1000"):
            sweep_configs(SMALL, wrong)
    assert first_run(tmp_path) is None
    for name in ("seed-10", "seed-9", "seed-x"):
        (tmp_path / name).mkdir()
    assert first_run(tmp_path) == tmp_path / "seed-9"
    (tmp_path / "runs" / "seed-1").mkdir(parents=True)
    assert first_run(tmp_path / "runs") == tmp_path / "runs" / "seed-1"
    assert first_run(tmp_path) == tmp_path / "seed-9"


def test_variants_are_all_combinations_in_folders_of_their_own():
    found = sweep_configs(SMALL, 2, {"head": ["learned", "zeroed"], "outer_lr": [0.1]})
    assert [str(run) for run in found] == [
        "head=learned,outer-lr=0.1/seed-5",
        "head=learned,outer-lr=0.1/seed-6",
        "head=zeroed,outer-lr=0.1/seed-5",
        "head=zeroed,outer-lr=0.1/seed-6",
    ]
    assert [(c.head, c.outer_lr, c.seed) for c in found.values()][1:3] == [("learned", 0.1, 6), ("zeroed", 0.1, 5)]


def test_variants_that_would_share_a_folder_are_refused():
    for values in (["folder:/a/B", "folder:/a/b"], ["folder:a/b", "folder:a_b"]):
        with pytest.raises(InputError, match="two variants have the folder dataset=folder:"):
            sweep_configs(SMALL, 1, {"dataset": values})


def test_a_folder_is_a_part_of_a_path_whatever_the_value_is():
    """A data set of the user's own has a path as its name."""
    (run,) = sweep_configs(SMALL, 1, {"dataset": ["folder:/some/where"]})
    assert str(run) == "dataset=folder:_some_where/seed-5"
