"""What happens to a training when disks fail, files are damaged and clocks go wrong: injected, one fault at a time."""

import dataclasses
import errno
import json
import logging
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from failing_disk import Killed, die, fail_once, no_more_than, watched
from metacontrast.errors import InputError
from metacontrast.training import checkpoint, config, records
from metacontrast.training.checkpoint import load_state
from metacontrast.training.run import load_run, open_run
from small_run import IMAGES, SMALL, content, linear_encoder, train_small


@pytest.fixture(scope="module", autouse=True)
def only_files_matter():
    """What takes longer than such a training is left out: convolutions, asking git, waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "build_encoder", linear_encoder)
        patch.setattr(records, "_git_revision", lambda: None)
        patch.setattr(os, "fsync", lambda handle: None)
        yield


EVERY_OR_SOME = pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    train_small(path)
    return path


@pytest.fixture(scope="module")
def operations(whole, tmp_path_factory) -> int:
    """How often a training turns to the file system."""
    seen: list[int] = []
    with watched(seen.append):
        train_small(tmp_path_factory.mktemp("counted") / "run")
    return len(seen)


def assert_good_so_far(path: Path) -> None:
    """What checkpoints there are load, and there is no model without a state."""
    if (path / "model.safetensors").exists():
        assert load_state(path) is not None
        assert load_run(path).updates > 0
    elif (path / "state.safetensors").exists():
        assert load_state(path) is not None


@EVERY_OR_SOME
def test_a_training_dies_between_two_file_operations_and_resumes_bit_for_bit(stride, whole, operations, tmp_path):
    """Parameters, moments, copies and records; nothing half-written stays behind."""
    deaths = 0
    for at in range(0, operations, stride):
        path = tmp_path / str(at)
        with die(at):
            deaths += was_killed(path)
        assert_good_so_far(path)
        train_small(path, resume=True)
        assert content(path) == content(whole), f"killed before operation {at}"
        assert not list(path.rglob("*.part"))
    assert deaths > 0.9 * operations / stride


def was_killed(path: Path) -> bool:
    try:
        train_small(path)
    except Killed:
        return True
    return False


@EVERY_OR_SOME
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=["full", "read-only", "broken"])
def test_a_file_operation_fails_and_the_last_good_checkpoint_loads(error, stride, whole, operations, tmp_path):
    """A full disk, a read-only folder, a broken disk: one line that names the file, then the training goes on."""
    complaints = []
    for at in range(error % stride, operations, stride):
        path = tmp_path / str(at)
        with fail_once(at, error):
            complaints += complaint_of(path)
        assert_good_so_far(path)
        train_small(path, resume=True)
        assert content(path) == content(whole), f"failed at operation {at}"
    assert len(complaints) > operations / stride / 2
    assert all(str(tmp_path) in line and "\n" not in line for line in complaints)


def complaint_of(path: Path) -> list[str]:
    """What a training says when it fails; nothing when it does not."""
    try:
        train_small(path)
    except InputError as problem:
        return [str(problem)]
    return []


def test_a_disk_that_fills_up_in_the_middle_of_a_line_or_a_file(whole, tmp_path):
    """The operating system refuses every byte beyond a limit, for limits up to the longest file of the training."""
    longest = max(file.stat().st_size for file in whole.rglob("*"))
    for number, limit in enumerate(np.linspace(0, longest - 1, 12, dtype=int)):
        path = tmp_path / str(number)
        with pytest.raises(InputError, match=r"cannot write .*; free some space"), no_more_than(int(limit)):
            train_small(path)
        assert_good_so_far(path)
        train_small(path, resume=True)
        assert content(path) == content(whole), f"no more than {limit} bytes"


def test_files_may_vanish_while_a_training_writes(whole, tmp_path):
    """Each file of the run but its configuration, removed after the third update: made again, or told by name."""
    for name in ("state.safetensors", "model.safetensors", "checkpoints", ".lock"):
        path = tmp_path / name
        train_small(path, dataclasses.replace(SMALL, updates=2))
        shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()
        train_small(path, resume=True)
        assert content(path)[:3] == content(whole)[:3]
        assert load_run(path).updates == SMALL.updates


def test_a_file_that_vanishes_while_it_is_written_leaves_the_old_one(tmp_path, monkeypatch):
    from metacontrast import files

    path = tmp_path / "x.safetensors"
    stored = checkpoint.Stored({"a": torch.zeros(3)}, {"updates": 1})
    checkpoint.save(path, stored)

    def save_and_lose(tensors, file, metadata):
        Path(file).unlink()

    monkeypatch.setattr(files, "save_file", save_and_lose)
    with pytest.raises(InputError, match=r"cannot write .*x\.safetensors: No such file"):
        checkpoint.save(path, stored)
    assert checkpoint.load(path).facts == {"updates": 1}


def damaged_variants(original: bytes, count: int):
    """Flipped ranges of 1 to 64 bytes that cover the whole file, and truncations of every length class."""
    generator = np.random.default_rng(0)
    for start in np.linspace(0, len(original) - 1, count // 2, dtype=int):
        damaged = np.frombuffer(original, np.uint8).copy()
        damaged[start : start + generator.integers(1, 65)] ^= generator.integers(1, 256, dtype=np.uint8)
        yield damaged.tobytes()
    for length in np.linspace(0, len(original) - 1, count - count // 2, dtype=int):
        yield original[:length]


def test_a_damaged_checkpoint_is_never_loaded_and_the_one_before_it_takes_its_place(whole, tmp_path, caplog):
    """240 variants of the last state: each is noticed by its digest, said, and set aside; the one before is whole."""
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    last, before = path / "state.safetensors", path / "state-before.safetensors"
    original = last.read_bytes()
    assert (checkpoint.load(before).facts["updates"], checkpoint.load(last).facts["updates"]) == (2, 3)
    for damaged in damaged_variants(original, 240):
        caplog.clear()
        last.write_bytes(damaged)
        stored = load_state(path)
        assert stored is not None
        assert stored.facts["updates"] == 2
        (message,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert str(last) in message
        assert f"continuing from the checkpoint before it, {before}" in message
        assert not last.exists()
        assert (path / "state-damaged.safetensors").read_bytes() == damaged


def test_from_the_checkpoint_before_the_training_ends_at_the_same_bits(whole, tmp_path, caplog):
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    with (path / "state.safetensors").open("r+b") as file:
        file.truncate(100)
    train_small(path, resume=True)
    assert content(path) == content(whole)
    assert "continuing from the checkpoint before it" in caplog.text


def test_with_both_checkpoints_damaged_nothing_is_trained(whole, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    for name in ("state.safetensors", "state-before.safetensors"):
        (path / name).write_bytes(b"damaged")
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    message = r"state\.safetensors cannot be read .* state-before\.safetensors, cannot be used either"
    with pytest.raises(InputError, match=message):
        train_small(path, resume=True)
    assert {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()} == before


def test_a_damaged_model_is_refused_for_use_and_written_again_by_resuming(whole, tmp_path, caplog):
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    (path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        load_run(path)
    train_small(path, resume=True)
    assert "it is written again from the checkpoint after update 3" in caplog.text
    assert (path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_model_whose_states_were_removed_is_not_written_over(whole, tmp_path):
    """It would be trained again from the start, and its records dropped."""
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    for name in ("state.safetensors", "state-before.safetensors"):
        (path / name).unlink()
    model, lines = (path / "model.safetensors").read_bytes(), (path / "records.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"has a model\.safetensors but no state\.safetensors to go on from"):
        train_small(path, resume=True)
    assert (path / "model.safetensors").read_bytes() == model
    assert (path / "records.jsonl").read_bytes() == lines


def test_a_model_of_another_update_is_written_again(whole, tmp_path, caplog):
    """As where a training is killed after it wrote its state."""
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    stored = checkpoint.load(path / "model.safetensors")
    checkpoint.save(path / "model.safetensors", checkpoint.Stored(stored.tensors, stored.facts | {"updates": 2}))
    train_small(path, resume=True)
    assert "model.safetensors is of update 2; it is written again from the checkpoint after update 3" in caplog.text
    assert (path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("lines", "known"), [(None, 0), (1, 0), (3, 2)])
def test_records_that_are_missing_are_told(lines, known, whole, tmp_path, caplog):
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    file = path / "records.jsonl"
    kept = file.read_text().splitlines(keepends=True)[:lines]
    file.unlink() if lines is None else file.write_text("".join(kept))
    train_small(path, dataclasses.replace(SMALL, updates=4), resume=True)
    assert f"records.jsonl ends at update {known}, and the last checkpoint is of 3" in caplog.text
    assert [each["update"] for each in records.read_records(file) if each["kind"] == "training"][-1] == 4


def test_a_damaged_best_model_gives_way_to_the_next(tmp_path, caplog):
    best = dataclasses.replace(SMALL, select=True, eval_every=1)
    train_small(tmp_path / "run", dataclasses.replace(best, updates=2))
    (tmp_path / "run" / "best.safetensors").write_bytes(b"damaged")
    train_small(tmp_path / "run", best, resume=True)
    assert "the model after update 3 takes its place" in caplog.text
    assert load_run(tmp_path / "run" / "best.safetensors").updates == 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"head.weight": torch.full((2, 4), float("nan"))}, r"head\.weight has values that are not finite"),
        ({"head.bias": torch.tensor([0.0, float("inf")])}, r"head\.bias has values that are not finite"),
        ({"head.bias": torch.tensor([0, 1])}, r"head\.bias has values that are not finite"),
        ({"head.weight": torch.zeros(3, 4)}, r"head\.weight has shape \(3, 4\), not \(2, 4\)"),
        ({"head.weights": torch.zeros(2, 4)}, r"head\.weights is unknown"),
        ({"encoder.body.9.weight": torch.zeros(1)}, r"encoder\.body\.9\.weight is unknown"),
        ({"head.bias": None}, r"head\.bias is missing"),
    ],
    ids=lambda value: "",
)
@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors"])
def test_weights_that_cannot_be_are_refused_by_name(name, change, problem, whole, tmp_path):
    """With a digest that is right: somebody made the file so."""
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    stored = checkpoint.load(path / name)
    changed = {n: t for n, t in (stored.tensors | change).items() if t is not None}
    checkpoint.save(path / name, checkpoint.Stored(changed, stored.facts))
    with pytest.raises(InputError, match=rf"{name} does not fit its configuration: {problem}"):
        load_run(path) if name == "model.safetensors" else train_small(path, resume=True)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        *(("image_shape", value) for value in ([1, 8], "8", [1, -8, 8], [1, 10**9, 10**9], [1, 8, 8.0])),
        *(("updates", value) for value in (-1, "5", None)),
        *(("mean", value) for value in ([], [float("nan")], ["0"], 0.0)),
        *(("std", value) for value in ([0.0], [1, 1])),
        *(("config", value) for value in ([], {"ways": "2"})),
    ],
)
def test_facts_that_cannot_be_are_refused_by_name(fact, value, whole, tmp_path):
    stored = checkpoint.load(whole / "model.safetensors")
    checkpoint.save(tmp_path / "model.safetensors", checkpoint.Stored(stored.tensors, stored.facts | {fact: value}))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_run(tmp_path)


@pytest.mark.parametrize("junk", [b"\xff\xfe\n", b"[1]\n", b"[" * 100_000 + b"\n", b"1" * 5000 + b"\n", b"\0\n"])
def test_a_damaged_line_of_the_records_is_told_by_its_number(junk, whole, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    lines = (path / "records.jsonl").read_bytes().splitlines(keepends=True)
    (path / "records.jsonl").write_bytes(b"".join([*lines[:2], junk, *lines[2:]]))
    with pytest.raises(InputError, match=r"records\.jsonl, line 3 is not a record"):
        train_small(path, resume=True)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\ud800", '{"config": {"ways": 1e400}}', "{}"])
def test_a_damaged_configuration_is_told(text, whole, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    (path / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(InputError, match=r"config\.json"):
        train_small(path, resume=True)


def test_the_clock_may_go_backwards(whole, tmp_path, monkeypatch):
    """No clock decides anything: not that of the system, nor the times of files."""
    for name in ("time", "monotonic", "perf_counter"):
        now, lock = [4e9], threading.Lock()

        def backwards(now=now, lock=lock) -> float:
            with lock:
                now[0] -= 1000
                return now[0]

        monkeypatch.setattr(time, name, backwards)
    train_small(tmp_path / "run", dataclasses.replace(SMALL, updates=2))
    for number, file in enumerate((tmp_path / "run").iterdir()):
        os.utime(file, (4e9 - number, 4e9 - number))
    train_small(tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == content(whole)


def test_two_trainings_in_one_folder(whole, tmp_path):
    """The second says so and touches nothing, however far the first is."""
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    with (
        open_run(path, SMALL, IMAGES, "cpu", resume=True),
        pytest.raises(InputError, match="another training is writing to"),
    ):
        train_small(path, resume=True)
    assert content(path) == content(whole)
    assert json.loads((path / "config.json").read_text())["config"]["seed"] == SMALL.seed
