"""Several seeds and variants of one training: a run directory for each seed, in a folder for each variant."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from metacontrast.errors import InputError
from metacontrast.training.config import TrainConfig, with_fields

MOST_SEEDS = 1000
VARIED = tuple(field.name for field in fields(TrainConfig) if field.name != "seed")
"""Fields that variants may differ in."""


def sweep_configs(
    config: TrainConfig,
    seeds: int,
    varied: Mapping[str, Sequence[Any]] | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> dict[Path, TrainConfig]:
    """Every variant with the seeds `config.seed` and following, by the folder of its run.

    Args:
        seeds: how many for each variant.
        varied: the values of each varied field; variants are all their combinations.
        given: fields that stay as they are where a variant's method would bring others.
    """
    if varied and "method" in varied and config.method != "maml":
        raise InputError(f"method={config.method} has changed other fields: name methods with --vary alone")
    if not 1 <= seeds <= MOST_SEEDS:
        raise InputError(f"seeds={seeds}, but it must be 1 to {MOST_SEEDS}")
    variants = [dict(zip(varied, values, strict=True)) for values in product(*varied.values())] if varied else [{}]
    return {
        variant_folder(variant) / f"seed-{seed}": with_fields(config, **{**given, **variant, "seed": seed})
        for variant in variants
        for seed in range(config.seed, config.seed + seeds)
    }


def variant_folder(variant: Mapping[str, Any]) -> Path:
    """The name of a variant's folder: its fields, or none for the configuration itself.

    >>> variant_folder({"head": "learned", "eval_steps": (1, 3)}).name
    'head=learned,eval-steps=1-3'
    """
    return Path(",".join(f"{name.replace('_', '-')}={_in_name(value)}" for name, value in variant.items()).lower())


def _in_name(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value).replace("/", "_")


def first_run(folder: Path) -> Path | None:
    """The run of the lowest seed, of the first variant by name; None where there is none."""
    runs = [*folder.glob("seed-*"), *folder.glob("*=*/seed-*")]
    found = [(run.parent, int(run.name[5:]), run) for run in runs if run.name[5:].isdigit()]
    return min(found)[-1] if found else None
