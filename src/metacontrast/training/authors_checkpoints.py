"""The checkpoints released with the paper, as runs of this library.

A checkpoint is a dictionary with `model_state_dict`, and around it `optimizer_state_dict`, `epoch`, `step`. The state
dict numbers its tensors, four blocks and then the head:

    vars.4b, vars.4b+1        weight and bias of the convolution of block b = 0 … 3
    vars.4b+2, vars.4b+3      weight and bias of its batch norm
    vars.16, vars.17          weight (way, feature) and bias of the head; many files have no bias
    vars_bn.2b, vars_bn.2b+1  running mean and variance of that batch norm, which the released code never used

Colour images were normalized with ImageNet's mean and deviation, grey ones not at all. A file is read as weights only,
and its tensors are checked.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metacontrast.data.catalog import DATASETS, find_dataset
from metacontrast.data.folder import IMAGENET_MEAN, IMAGENET_STD
from metacontrast.errors import InputError
from metacontrast.model.head import zero_head
from metacontrast.model.model import Model
from metacontrast.training.config import TrainConfig
from metacontrast.training.recipes import RECIPES
from metacontrast.training.run import TrainedRun
from metacontrast.types import from_tensors, to_tensors

_LIKELY = {1: ("omniglot",), 3: ("mini-imagenet", "cifar-fs")}
"""Data sets that a checkpoint may be of, by the channels of its images, the likeliest first."""
_HEADS = ("learned", "zeroed")
Shape = tuple[int, int, int]


def load_released(path: Path, **fields: Any) -> TrainedRun:
    """The run that a released checkpoint stands for.

    Derived from the shapes: channels, width, number of ways, whether the head has a bias, and the data
    set, the first that fits of miniImageNet, CIFAR-FS and Omniglot. The rest is the data set's released recipe.

    Args:
        path: the checkpoint. Nothing in it is run: a pickle of anything but weights is refused.
        fields: fields of `TrainConfig` that override the above. `head="zeroed"`, for files that were trained with the
            zeroing trick, sets the head to zero: in the file it is one optimizer step away from that.

    Raises:
        InputError: the file cannot be read as weights, or these do not fit.
    """
    variables, updates = read_released(path)
    if fields.get("head", "learned") not in _HEADS:
        raise InputError(f"head={fields['head']}, but the authors' heads have a row for every class: learned or zeroed")
    ways, filters = variables[4 * BLOCKS].shape[0], variables[0].shape[0]
    derived = {"ways": ways, "filters": filters, "head_bias": len(variables) == len(VARIABLES)}
    if taken := [name for name in derived if name in fields]:
        raise InputError(f"{taken[0]} is derived from the shapes in {path}: leave it out")
    config, model, shape = _first_that_fits(variables, derived | fields, path)
    params = from_tensors(model.empty_params(), variables)
    params = zero_head(params) if config.head == "zeroed" else params
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if shape[0] == 3 else ((0.0,), (1.0,))
    return TrainedRun(config, model, params, updates, shape, mean, std)


def _first_that_fits(
    variables: list[Tensor], fields: Mapping[str, Any], path: Path
) -> tuple[TrainConfig, Model, Shape]:
    problems = []
    for config, shape in _candidates(variables[0].shape[1], fields, path):
        model = config.model(shape)
        pairs = zip(variables, to_tensors(model.empty_params()), strict=False)
        shapes = [(tuple(found.shape), tuple(wanted.shape)) for found, wanted in pairs]
        place = next((place for place, (found, wanted) in enumerate(shapes) if found != wanted), None)
        if place is None:
            return config, model, shape
        problems.append(
            f"vars.{place} has shape {shapes[place][0]}, not the {shapes[place][1]}, which {config.encoder} has on "
            f"{shape[1]}×{shape[2]} images of {config.dataset}"
        )
    raise InputError(f"{path}: {problems[0]}: name another --dataset, --image-size or --encoder")


def _candidates(channels: int, fields: Mapping[str, Any], path: Path) -> Iterator[tuple[TrainConfig, Shape]]:
    """What the file may be, the likeliest first: a configuration and the shape of its images."""
    likely = _LIKELY.get(channels)
    if likely is None:
        raise InputError(f"{path}: vars.0 takes images of {channels} channels, but there are only 1 and 3")
    suffix = f"-5w{1 if fields.get('shots', 1) < 3 else 5}s-released"
    for dataset in (fields["dataset"],) if "dataset" in fields else likely:
        own = find_dataset(dataset)[0].shape
        if own is not None and own[0] != channels:
            raise InputError(f"{path}: vars.0 takes {channels} channels, but images of {dataset} have {own[0]}")
        base = RECIPES.get(dataset + suffix) or replace(RECIPES[likely[0] + suffix], split_scheme="default")
        asked = fields.get("image_size")
        shapes = [own] if own is not None else [DATASETS[name].shape for name in likely]
        for side in [asked] if asked is not None else [shape[1] for shape in shapes if shape is not None]:
            size = None if own is not None and own[1] == side else side
            changes = {"head": "learned", **fields, "dataset": dataset, "image_size": size}
            yield replace(base, **changes), (channels, side, side)


BLOCKS = 4
VARIABLES = [f"vars.{i}" for i in range(4 * BLOCKS + 2)]
AVERAGES = [f"vars_bn.{i}" for i in range(2 * BLOCKS)]
_HEAD_WEIGHT, _HEAD_BIAS = VARIABLES[-2:]
_AROUND = {"model_state_dict", "optimizer_state_dict", "epoch", "step"}


def read_released(path: Path) -> tuple[list[Tensor], int]:
    """The tensors of `VARIABLES` that the file has, and the outer updates behind them, 0 where it does not say.

    Raises:
        InputError: it is anything but a whole checkpoint of finite float32 weights.
    """
    checkpoint = _read_weights_only(path)
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("model_state_dict"), Mapping):
        raise InputError(f"{path} has no model_state_dict: it is not one of the authors' checkpoints")
    if unknown := [key for key in checkpoint if key not in _AROUND]:
        raise InputError(f"{path} has an unknown entry {unknown[0]!r}: it is not one of the authors' checkpoints")
    state = checkpoint["model_state_dict"]
    required = [*VARIABLES[:-1], *AVERAGES]
    if missing := [name for name in required if name not in state]:
        raise InputError(f"{path} lacks {missing[0]}: it is not one of the authors' checkpoints")
    if unknown := [name for name in state if name not in (*required, _HEAD_BIAS)]:
        raise InputError(f"{path} has an unknown tensor {unknown[0]!r}: it is not one of the authors' checkpoints")
    for name in state:
        _check_tensor(name, state[name], path)
    _check_averages(state, path)
    variables = [state[name].detach() for name in VARIABLES if name in state]
    return variables, _count_updates(checkpoint.get("optimizer_state_dict"), path)


def _read_weights_only(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path} is not a file: give one of the authors' checkpoints")
    try:
        with warnings.catch_warnings(action="ignore"):  # PyTorch remarks on some pickles before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise nearly anything
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {asked[1]}, which is not run" if asked else "is no checkpoint of weights alone, or is damaged"
        raise InputError(f"{path} {what}: get it from its authors again") from error


def _check_tensor(name: str, tensor: Any, path: Path) -> None:
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype != torch.float32:
        kind = f"a {tensor.dtype} tensor" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InputError(f"{path}: {name} is {kind}, not a dense float32 tensor: get it from its authors again")
    if tensor.is_meta or not torch.isfinite(tensor).all():
        raise InputError(f"{path}: {name} has values that are not finite: the training diverged or the file is damaged")
    dimensions = {"vars.0": 4, _HEAD_WEIGHT: 2}.get(name, tensor.ndim)
    if tensor.ndim != dimensions or not tensor.numel():
        raise InputError(f"{path}: {name} has shape {tuple(tensor.shape)}, not {dimensions} dimensions above 0")


def _check_averages(state: Mapping[str, Tensor], path: Path) -> None:
    """They are not used, but averages of another shape are a sign of another network."""
    for place, name in enumerate(AVERAGES):
        wanted = state[VARIABLES[4 * (place // 2) + 2]].shape
        if state[name].shape != wanted:
            raise InputError(f"{path}: {name} has shape {tuple(state[name].shape)}, not {tuple(wanted)}")


def _count_updates(optimizer: Any, path: Path) -> int:
    """The optimizer's own count, the same for every tensor that it ever moved."""
    if optimizer is None:
        return 0
    try:
        return max((int(slots["step"]) for slots in optimizer["state"].values()), default=0)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path}: its optimizer_state_dict is not Adam's: it is damaged or another's") from error
