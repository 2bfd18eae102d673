"""Several seeds and variants of one training: a run directory for each seed, in a folder for each variant."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from metacontrast.errors import InputError
from metacontrast.training.config import TrainConfig

MOST_REPLICAS = 1000

VARIED = ("head", "head_init_scale", "labels", "pool_size", "optimizer", "outer_lr")
"""Fields that variants may differ in: numbers, tasks and what follows the gradient, but no part of its program."""


def replica_configs(
    config: TrainConfig, replicas: int, varied: Mapping[str, Sequence[Any]] | None = None
) -> dict[Path, TrainConfig]:
    """Every variant with the seeds `config.seed` and following, by the folder of its run.

    Args:
        replicas: seeds of each variant.
        varied: the values of each varied field; variants are all their combinations.

    Raises:
        InputError: they cannot go side by side.
    """
    if not 1 <= replicas <= MOST_REPLICAS:
        raise InputError(f"replicas={replicas}, but it must be 1 to {MOST_REPLICAS}")
    variants = [dict(zip(varied, values, strict=True)) for values in product(*varied.values())] if varied else [{}]
    seeds = range(config.seed, config.seed + replicas)
    configs = {
        variant_folder(variant) / f"seed-{seed}": replace(config, **variant, seed=seed)
        for variant in variants
        for seed in seeds
    }
    check_alike(list(configs.values()))
    return configs


def variant_folder(variant: Mapping[str, Any]) -> Path:
    """The name of a variant's folder: its fields, or none for the configuration itself.

    >>> variant_folder({"head": "learned", "outer_lr": 0.01}).name
    'head=learned,outer-lr=0.01'
    """
    return Path(",".join(f"{name.replace('_', '-')}={value}" for name, value in variant.items()).lower())


def check_alike(configs: Sequence[TrainConfig]) -> None:
    """Raise where trainings cannot go side by side: they differ in more than seeds and `VARIED`."""
    if len({_computation(config) for config in configs}) != 1:
        raise InputError(f"replicas may differ in seed, {', '.join(VARIED)} alone: train other variants one by one")


def first_replica(folder: Path) -> Path | None:
    """The run of the lowest seed, of the first variant by name; None where there is none."""
    runs = [*folder.glob("seed-*"), *folder.glob("*=*/seed-*")]
    found = [(run.parent, int(run.name[5:]), run) for run in runs if run.name[5:].isdigit()]
    return min(found)[-1] if found else None


def _computation(config: TrainConfig) -> TrainConfig:
    """The same for all trainings whose gradients are one program."""
    head = "learned" if config.head == "zeroed" else config.head
    default = TrainConfig()
    same = {name: getattr(default, name) for name in ("seed", *VARIED)} | {"head": head}
    return replace(config, **same)
