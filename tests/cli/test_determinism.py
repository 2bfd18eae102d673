"""The same seed on the same machine gives the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import recipe_digests
from metacontrast.cli.main import run
from metacontrast.cli.shared import determinism
from metacontrast.errors import InputError
from metacontrast.training.recipes import RECIPES


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[str, str]:
    """Five classes of eight images for training and five for testing, grey and in colour."""
    generator = np.random.default_rng(0)
    found = []
    for shape in ((28, 28), (28, 28, 3)):
        root = tmp_path_factory.mktemp("images")
        for split in ("train", "test"):
            for c in range(5):
                (root / split / f"{split}{c}").mkdir(parents=True)
                for i in range(8):
                    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
                    Image.fromarray(pixels).save(root / split / f"{split}{c}" / f"{i}.png")
        found.append(str(root))
    return found[0], found[1]


def digests(folders: tuple[str, str], out: Path, threads: int, recipes: list[str]) -> dict[str, str]:
    words = [sys.executable, recipe_digests.__file__, *folders, str(out), str(threads), *recipes]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("threads", "recipes"),
    [
        (2, ["omniglot-5w1s-released"]),
        pytest.param(1, list(RECIPES), marks=pytest.mark.slow),
        pytest.param(2, list(RECIPES), marks=pytest.mark.slow),
    ],
)
def test_two_fresh_processes_leave_the_same_bytes(threads, recipes, folders, tmp_path):
    """Configuration, records, model, both states: every file of a run, whatever the threads are spread over."""
    one, two = (digests(folders, tmp_path / name, threads, recipes) for name in ("one", "two"))
    assert len(one) == 2 * len(recipes)
    assert one == two


def test_the_digest_sees_another_seed(folders, tmp_path):
    found = set()
    for seed in ("0", "1"):
        words = [*recipe_digests.words("glyphs", *folders), "--meta-batch", "1", "--workers", "1", "--seed", seed]
        assert run([*words, "--out", str(tmp_path / seed)]) == 0
        (tmp_path / seed / "config.json").unlink()
        (tmp_path / seed / "records.jsonl").unlink()
        (tmp_path / seed / "model.safetensors").unlink()
        found.add(recipe_digests.digest(tmp_path / seed))
    assert len(found) == 2


def test_deterministic_kernels_are_on_while_training_and_change_nothing_on_a_cpu(folders, tmp_path):
    """What the run's configuration says, and the bytes of its model and its state."""
    words = [*recipe_digests.words("glyphs", *folders), "--meta-batch", "1", "--workers", "1"]
    for name, more in {"forced": ["--deterministic"], "free": []}.items():
        assert run([*words, *more, "--out", str(tmp_path / name)]) == 0
        assert not torch.are_deterministic_algorithms_enabled()
        is_forced = json.loads((tmp_path / name / "config.json").read_text())["deterministic"]
        assert is_forced == (name == "forced")
    for file in ("model.safetensors", "state.safetensors"):
        assert (tmp_path / "forced" / file).read_bytes() == (tmp_path / "free" / file).read_bytes()


def test_an_operation_without_a_deterministic_form_is_one_line():
    """As PyTorch says it of kernels of a GPU; other errors stay what they are."""
    said = "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation, but you set"
    with pytest.raises(InputError, match="--deterministic, but adaptive_max_pool2d_backward_cuda"), determinism(True):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="out of memory"), determinism(True):
        raise RuntimeError("out of memory")
    assert not torch.are_deterministic_algorithms_enabled()
