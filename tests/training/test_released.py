"""Checkpoints in the form of the released ones, made here, become runs that compute the same."""

import json
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from metacontrast.cli.main import run
from metacontrast.errors import InputError
from metacontrast.model.normalization import TaskBatchNorm
from metacontrast.training.authors_checkpoints import load_released
from metacontrast.training.run import load_run
from metacontrast.types import map_params, to_tensors


class ReleasedForm(nn.Module):
    """The released networks in plain operations, their tensors numbered as in the released state dicts."""

    def __init__(self, channels: int, filters: int, side: int, ways: int = 5, head_bias: bool = True, seed: int = 0):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.grey = channels == 1
        tensors, averages = [], []
        for block in range(4):
            kernel = 2 if self.grey and block == 3 else 3
            size = (filters, channels if block == 0 else filters, kernel, kernel)
            tensors += [0.3 * torch.randn(*size, generator=rng), 0.1 * torch.randn(filters, generator=rng)]
            tensors += [1 + 0.1 * torch.randn(filters, generator=rng), 0.1 * torch.randn(filters, generator=rng)]
            averages += [torch.rand(filters, generator=rng), torch.rand(filters, generator=rng)]
        features = filters if self.grey else filters * (side // 16) ** 2
        tensors.append(0.1 * torch.randn(ways, features, generator=rng))
        tensors += [0.1 * torch.randn(ways, generator=rng)] if head_bias else []
        self.vars = nn.ParameterList(tensors)
        self.vars_bn = nn.ParameterList(nn.Parameter(t, requires_grad=False) for t in averages)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in range(4):
            weight, bias, gamma, beta = self.vars[4 * block : 4 * block + 4]
            stride, padding = ((2, 0) if block < 3 else (1, 0)) if self.grey else (1, 1)
            x = F.relu(F.conv2d(x, weight, bias, stride, padding))
            x = F.batch_norm(x, None, None, gamma, beta, training=True)
            x = x if self.grey else F.max_pool2d(x, 2)
        return F.linear(x.flatten(1), self.vars[16], self.vars[17] if len(self.vars) == 18 else None)


def checkpoint(net: ReleasedForm, updates: int = 3) -> dict:
    """As the released code saved it: the state dict, Adam's state, epoch and step."""
    optimizer = torch.optim.Adam(net.vars, lr=1e-3)
    slots = {i: {"step": updates, "exp_avg": torch.zeros(1), "exp_avg_sq": torch.zeros(1)} for i in range(17)}
    state = optimizer.state_dict() | {"state": slots}
    return {"epoch": 0, "step": updates - 1, "model_state_dict": net.state_dict(), "optimizer_state_dict": state}


def saved(path: Path, content: object, **how) -> Path:
    torch.save(content, path, **how)
    return path


@pytest.fixture(scope="module")
def grey(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("released") / "E0S2.pt", checkpoint(ReleasedForm(1, 4, 28)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six grey classes of eight images, in train and test."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split in ("train", "test"):
        for c in range(6):
            (root / split / f"{split} {c}").mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 256, (28, 28)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / f"{split} {c}" / f"{i}.png")
    return root


@pytest.mark.parametrize("head_bias", [True, False])
@pytest.mark.parametrize(("channels", "filters", "side"), [(3, 32, 84), (3, 8, 32), (1, 64, 28)])
def test_converted_logits_are_those_of_the_plain_network(channels, filters, side, head_bias, tmp_path):
    """In float64, under the statistics of the batch; the running averages of the file play no part."""
    net = ReleasedForm(channels, filters, side, head_bias=head_bias)
    found = load_released(saved(tmp_path / "x.pt", checkpoint(net)))
    params = map_params(lambda t: t.double(), found.params)
    x = torch.rand(6, channels, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = net.double()(x)
        logits = found.model.query_logits(params, x[:1], x)
    assert (logits - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert found.model.norm == "transductive"
    assert any(isinstance(module, TaskBatchNorm) for module in found.model.encoder.modules())


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (ReleasedForm(3, 32, 84), ("mini-imagenet", (3, 84, 84), 5, 0.01)),
        (ReleasedForm(3, 32, 32), ("cifar-fs", (3, 32, 32), 5, 0.01)),
        (ReleasedForm(1, 64, 28, ways=20), ("omniglot", (1, 28, 28), 2, 0.4)),
    ],
)
def test_data_set_network_and_recipe_are_read_off_the_shapes(net, expected, tmp_path):
    found = load_released(saved(tmp_path / "x.pt", checkpoint(net, updates=29_801)))
    config = found.config
    assert (config.dataset, found.image_shape, config.inner_steps, config.inner_lr) == expected
    assert (config.encoder, config.filters, config.ways) == (
        "conv4-released",
        len(net.vars[0]),
        len(net.vars[16]),
    )
    assert config.image_size is None
    assert found.updates == 29_801
    assert found.mean == ((0.485, 0.456, 0.406) if found.image_shape[0] == 3 else (0.0,))


def test_flags_override_what_was_inferred(tmp_path):
    path = saved(tmp_path / "x.pt", checkpoint(ReleasedForm(3, 8, 64)))
    with pytest.raises(InputError, match=r"vars\.16 has shape \(5, 128\), not the \(5, 200\).*84×84.*--image-size"):
        load_released(path)
    found = load_released(path, dataset="folder:mine", image_size=64, shots=5, inner_scope="head", inner_lr=0.1)
    assert found.image_shape == (3, 64, 64)
    assert (found.config.image_size, found.config.pool_size, found.config.inner_scope) == (64, 5_000, "head")
    own_size = load_released(saved(tmp_path / "y.pt", checkpoint(ReleasedForm(3, 8, 32))), dataset="folder:mine")
    assert own_size.config.image_size == 32


def test_a_zeroed_head_is_set_to_zero_and_a_kept_one_is_the_files(grey):
    zeroed, kept = load_released(grey, head="zeroed"), load_released(grey)
    assert not any(t.any() for t in zeroed.params.head)
    assert torch.equal(kept.params.head.weight, ReleasedForm(1, 4, 28).vars[16])


def test_a_file_of_the_older_serialization_is_read_too(tmp_path):
    content = checkpoint(ReleasedForm(1, 4, 28))
    path = saved(tmp_path / "old.pt", content, _use_new_zipfile_serialization=False)
    assert load_released(path).updates == 3


def test_a_converted_checkpoint_is_evaluated_and_explained_like_a_run(grey, folder, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["convert", str(grey), "--out", str(out), "--dataset", f"folder:{folder}", "--queries", "3", "--json"]
    assert run(words) == 0
    text = capsys.readouterr()
    assert json.loads(text.out)["updates"] == 3
    assert "4 filters, 5-way head with a bias, learned, for 28×28 images of folder:" in text.err
    assert all(
        torch.equal(a, b)
        for a, b in zip(to_tensors(load_run(out).params), to_tensors(load_released(grey).params), strict=True)
    )
    assert run(["evaluate", str(out), "--episodes", "2", "--steps", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert [row["head"] for row in rows] == ["kept", "zeroed", "none"]
    assert run(["explain", str(out), "--episodes", "2"]) == 0
    assert (out / "explain" / "explain.html").exists()
    header = json.loads((out / "config.json").read_text())
    assert header["origin"]["file"] == "E0S2.pt"
    assert len(header["origin"]["sha256"]) == 64


def fails(capsys, words: list[str], part: str) -> None:
    capsys.readouterr()
    assert run(words) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert part in err


def test_a_converted_model_is_not_resumed_nor_overwritten(grey, folder, tmp_path, capsys):
    out = tmp_path / "run"
    convert = ["convert", str(grey), "--out", str(out), "--dataset", f"folder:{folder}", "--queries", "3"]
    assert run(convert) == 0
    before = {file: file.read_bytes() for file in out.iterdir()}
    fails(capsys, convert, "holds a run already: choose another --out")
    fails(capsys, ["train", "--resume", "--out", str(out)], "which cannot be resumed")
    assert {file: file.read_bytes() for file in out.iterdir()} == before


class Planted:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_planted_pickle_is_named_and_never_runs(zipped, tmp_path, capsys):
    mark = tmp_path / "it ran"
    content = checkpoint(ReleasedForm(1, 4, 28)) | {"epoch": Planted(mark)}
    path = saved(tmp_path / "x.pt", content, _use_new_zipfile_serialization=zipped)
    fails(capsys, ["convert", str(path), "--out", str(tmp_path / "run")], "system, which is not run")
    assert not mark.exists()
    assert not (tmp_path / "run").exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the payload was a working one"


def spoiled(change) -> dict:
    content = checkpoint(ReleasedForm(1, 4, 28))
    content["model_state_dict"] = dict(content["model_state_dict"])
    change(content, content["model_state_dict"])
    return content


def with_one_nan(content, state) -> None:
    state["vars.4"] = state["vars.4"].clone()
    state["vars.4"][0, 0, 0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content, state: content.pop("model_state_dict"), "has no model_state_dict"),
        (lambda content, state: content.update(model_state_dict=[1]), "has no model_state_dict"),
        (lambda content, state: content.update(extra=1), "unknown entry 'extra'"),
        (lambda content, state: content.update(optimizer_state_dict={"state": {0: 1}}), "is not Adam's"),
        (lambda content, state: state.pop("vars.7"), r"lacks vars\.7"),
        (lambda content, state: state.pop("vars_bn.1"), r"lacks vars_bn\.1"),
        (lambda content, state: state.update({"vars.18": torch.zeros(1)}), r"unknown tensor 'vars\.18'"),
        (lambda content, state: state.update({3: torch.zeros(1)}), "unknown tensor 3"),
        (lambda content, state: state.update({"vars.4": 3}), r"vars\.4 is int, not a dense float32"),
        (lambda content, state: state.update({"vars.4": state["vars.4"].double()}), r"torch\.float64 tensor"),
        (lambda content, state: state.update({"vars.4": state["vars.4"].to_sparse()}), r"vars\.4 is a .* tensor, not"),
        (lambda content, state: state.update({"vars.0": torch.zeros(())}), r"vars\.0 has shape \(\), not 4"),
        (lambda content, state: state.update({"vars.0": torch.zeros(4, 2, 3, 3)}), "images of 2 channels"),
        (lambda content, state: state.update({"vars.16": torch.zeros(0, 4)}), r"vars\.16 has shape \(0, 4\)"),
        (lambda content, state: state.update({"vars.4": torch.zeros(4, 5, 3, 3)}), r"vars\.4 has shape .* not the"),
        (lambda content, state: state.update({"vars_bn.3": torch.ones(5)}), r"vars_bn\.3 has shape \(5,\), not \(4,\)"),
        (with_one_nan, r"vars\.4 has values that are not finite"),
    ],
)
def test_every_mismatch_is_one_line_that_names_it(change, message, tmp_path):
    path = saved(tmp_path / "x.pt", spoiled(change))
    with pytest.raises(InputError, match=message) as error:
        load_released(path)
    assert "\n" not in str(error.value)
    assert "x.pt" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no pickle " * 9, b"PK\x05\x06" + bytes(18), b"\x80\x04\x95"])
def test_what_is_no_checkpoint_is_one_line(content, tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(InputError, match=r"x\.pt is not a file"):
        load_released(path)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pt is no checkpoint of weights alone, or is damaged: .*$"):
        load_released(path)


def test_a_pickle_is_refused_without_remarks(tmp_path):
    """PyTorch warns of a pickle's protocol before it refuses; on a terminal these were three lines more."""
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps({"a": os.getcwd}, protocol=4))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(InputError, match=r"x\.pt is no checkpoint of weights alone"):
            load_released(path)
    assert not told


def test_a_truncated_checkpoint_is_one_line(grey, tmp_path):
    whole = grey.read_bytes()
    for length in range(1, len(whole), len(whole) // 12):
        (tmp_path / "x.pt").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"x\.pt"):
            load_released(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "mini-imagenet"}, r"vars\.0 takes 1 channels, but images of mini-imagenet have 3"),
        ({"dataset": "omniglotto"}, "no data set 'omniglotto'"),
        ({"encoder": "mlp"}, "name another --dataset, --image-size or --encoder"),
        ({"head": "shared"}, "learned or zeroed"),
        ({"ways": 7}, "ways is derived from the shapes"),
        ({"image_size": 8}, "too small"),
    ],
)
def test_flags_that_cannot_fit_are_refused(fields, message, grey):
    with pytest.raises(InputError, match=message):
        load_released(grey, **fields)
