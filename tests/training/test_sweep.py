"""Seeds and variants: which runs there are, in which folders, and how they are kept."""

from dataclasses import replace

import pytest

from metacontrast.errors import InputError
from metacontrast.training.sweep import Sweep, holds_runs, load_sweep


def test_seeds_follow_one_another():
    runs = Sweep({"seed": 5, "ways": 4}, {}, 3).runs()
    assert [(str(folder), fields) for folder, fields in runs.items()] == [
        ("seed-5", {"seed": 5, "ways": 4}),
        ("seed-6", {"seed": 6, "ways": 4}),
        ("seed-7", {"seed": 7, "ways": 4}),
    ]
    for wrong in (0, 10**12):
        with pytest.raises(InputError, match=f"seeds={wrong}, but it must be 1 to 1000"):
            Sweep({}, {}, wrong)


def test_a_folder_with_runs_is_known(tmp_path):
    for name, is_one in (("seed-x", False), ("head=learned/seed-1", True)):
        (tmp_path / name).mkdir(parents=True)
        assert not holds_runs(tmp_path)
        (tmp_path / name / "config.json").touch()
        assert holds_runs(tmp_path) == is_one
    assert holds_runs(tmp_path / "head=learned")


def test_variants_are_all_combinations_in_folders_of_their_own():
    found = Sweep({"seed": 5}, {"head": ["learned", "zeroed"], "outer_lr": [0.1]}, 2).runs()
    assert [str(run) for run in found] == [
        "head=learned,outer-lr=0.1/seed-5",
        "head=learned,outer-lr=0.1/seed-6",
        "head=zeroed,outer-lr=0.1/seed-5",
        "head=zeroed,outer-lr=0.1/seed-6",
    ]
    assert list(found.values())[1:3] == [
        {"head": "learned", "outer_lr": 0.1, "seed": 6},
        {"head": "zeroed", "outer_lr": 0.1, "seed": 5},
    ]


def test_variants_that_would_share_a_folder_are_refused():
    for values in (["folder:/a/B", "folder:/a/b"], ["folder:a/b", "folder:a_b"]):
        with pytest.raises(InputError, match="two variants have the folder 'dataset=folder:"):
            Sweep({}, {"dataset": values}).runs()


def test_a_folder_is_a_part_of_a_path_whatever_the_value_is():
    """A data set of the user's own has a path as its name."""
    (run,) = Sweep({}, {"dataset": ["folder:/some/where"]}).runs()
    assert str(run) == "dataset=folder:_some_where/seed-0"
    assert [str(run.parent) for run in Sweep({}, {"augment": [(), ("flip", "crop")]}).runs()] == [
        "augment=none",
        "augment=flip-crop",
    ]


def test_what_was_asked_for_is_read_as_it_was_written(tmp_path):
    sweep = Sweep({"eval_steps": (1, 3), "pool_size": None}, {"head_bias": (True, False)}, 2, "glyphs")
    assert load_sweep(tmp_path) is None
    sweep.save(tmp_path)
    assert load_sweep(tmp_path) == sweep


def test_a_command_takes_nothing_from_another_that_added_to_its_sweep(tmp_path):
    """The one began with two seeds and goes on; the other was asked for nine updates and four seeds meanwhile."""
    first = Sweep({}, {"head": ("learned", "zeroed")}, 2)
    first.save(tmp_path)
    second = replace(first.extended({"updates": 9}, {}, 4, None), before=load_sweep(tmp_path))
    second.save(tmp_path)
    first.save(tmp_path)
    assert load_sweep(tmp_path) == second
    third = replace(first.extended({}, {"head": ("shared",)}, 3, None), before=first)
    third.save(tmp_path)
    assert load_sweep(tmp_path) == Sweep({"updates": 9}, {"head": ("learned", "zeroed", "shared")}, 4)
    with pytest.raises(InputError, match="the runs that are there differ in head: vary the same"):
        Sweep({}, {"ways": (3, 4)}).save(tmp_path)


NO_VALUES = '{"given": {}, "varied": {"head": []}, "seeds": 1, "recipe": null}'


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", NO_VALUES, '{"given": {"hed": 1}, "varied": {}, "seeds": 1, "recipe": null}']
)
def test_a_damaged_file_is_one_line(text, tmp_path):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(InputError, match=r"sweep\.json cannot be read .*: restore it or choose another --out"):
        load_sweep(tmp_path)


def test_runs_are_added_and_none_is_lost():
    sweep = Sweep({"seed": 2, "ways": 4, "least_ways": 3}, {"head": ("zeroed", "learned")}, 2, "glyphs")
    longer = sweep.extended({"updates": 9}, {"head": ("shared", "zeroed")}, 3, None)
    assert longer == Sweep({**sweep.given, "updates": 9}, {"head": ("zeroed", "learned", "shared")}, 3, "glyphs")
    assert longer.runs().keys() >= sweep.runs().keys()
    assert sweep.extended({}, {}, None, None).runs() == sweep.runs()
    assert sweep.extended({"ways": 5}, {}, None, None).given == {"seed": 2, "ways": 5}


@pytest.mark.parametrize(
    ("given", "varied", "seeds", "message"),
    [
        ({}, {"order": ("first",)}, None, "differ in head: vary the same"),
        ({}, {"head": ("shared",), "order": ("first",)}, None, "differ in head: vary the same"),
        ({"seed": 0}, {}, None, "begin with seed=2: leave it out"),
        ({}, {}, 1, "seeds=1, but there are 2: leave it out"),
    ],
)
def test_what_would_lose_runs_is_refused(given, varied, seeds, message):
    sweep = Sweep({"seed": 2}, {"head": ("zeroed", "learned")}, 2)
    with pytest.raises(InputError, match=message):
        sweep.extended(given, varied, seeds, None)
