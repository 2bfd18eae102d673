"""Checkpoints: whole or not there, and never loaded when damaged."""

import pytest
import torch
from safetensors.torch import save_file

from failing_disk import no_more_than
from metacontrast.errors import InputError
from metacontrast.training.checkpoint import Stored, load, model_facts, params_from_tensors, save
from metacontrast.types import Head, Params, to_named

STORED = Stored({"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}, {"updates": 7})


def test_what_is_saved_is_loaded(tmp_path):
    save(tmp_path / "x.safetensors", STORED)
    loaded = load(tmp_path / "x.safetensors")
    assert loaded.facts == {"updates": 7}
    assert all(torch.equal(loaded.tensors[n], t) for n, t in STORED.tensors.items())
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_every_flipped_byte_and_every_truncation_is_noticed(tmp_path):
    """All positions of a small file: none loads in silence with other content."""
    path = tmp_path / "x.safetensors"
    save(path, STORED)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x5A]) + whole[position + 1 :])
        with pytest.raises(InputError, match=r"x\.safetensors (is damaged|cannot be read)"):
            load(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            load(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file(STORED.tensors, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="damaged or from another program"):
        load(tmp_path / "x.safetensors")


FACTS = {"updates": 7, "image_shape": [3, 8, 8], "mean": [0.5], "std": [0.2, 0.2, 0.2]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("updates", value) for value in (-1, True, 1.0, "7", None)),
        *(("image_shape", value) for value in ([3, 8], [3, 8, 0], [3, 8, 10**9], [3.0, 8, 8], 3)),
        *(("mean", value) for value in ([], [float("nan")], [float("inf")], [10**400], ["0"], [0.1, 0.2], 0.5)),
        *(("std", value) for value in ([0], [-1.0], [1e300], [1e-60], [0.1] * 4)),
    ],
)
def test_facts_that_no_model_has_are_refused_in_one_line(name, value):
    assert model_facts(FACTS, "x").std == (0.2, 0.2, 0.2)
    with pytest.raises(InputError, match=rf"^x has .*{name}.*damaged or from another program$"):
        model_facts(FACTS | {name: value}, "x")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.safetensors does not exist"):
        load(tmp_path / "nothing.safetensors")


def test_a_failing_disk_leaves_the_old_checkpoint(tmp_path):
    """The write goes to a file beside and only a complete one is renamed."""
    path = tmp_path / "x.safetensors"
    save(path, STORED)
    with no_more_than(5_000), pytest.raises(InputError, match=r"cannot write .*x\.safetensors: .*; free some space"):
        save(path, Stored({"a": torch.zeros(10_000)}, {}))
    assert load(path).facts == {"updates": 7}
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_parameters_of_another_shape_are_refused_by_name():
    params = Params({"w": torch.zeros(2, 2)}, Head(torch.zeros(3, 4), torch.zeros(3)))
    tensors = to_named(params)
    assert set(tensors) == {"encoder.w", "head.weight", "head.bias"}
    tensors["encoder.w"] = torch.zeros(5)
    with pytest.raises(InputError, match=r"here does not fit its configuration: encoder\.w"):
        params_from_tensors(params, tensors, "here")
