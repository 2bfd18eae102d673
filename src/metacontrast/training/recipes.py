"""Named configurations of the published protocols, and sweeps over seeds and fields of a configuration.

Where the text does not say (inner steps in training and at test) `paper` follows the authors' code, which updates with
the mean over tasks, as this library does everywhere.

A sweep is a run directory for each seed, in a folder for each variant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from metacontrast.errors import InputError, did_you_mean
from metacontrast.training.config import TrainConfig, with_fields, without_ranges

_OMNIGLOT = TrainConfig(
    dataset="omniglot",
    inner_steps=2,
    inner_lr=0.4,
    meta_batch=32,
    eval_steps=(1, 2, 3),
    eval_every=300,
    eval_episodes=600,
)
_COLOUR = TrainConfig(
    inner_steps=5,
    inner_lr=0.01,
    updates=30_000,
    eval_every=500,
    eval_episodes=400,
    eval_steps=(1, 3, 5, 10),
    checkpoint_every=200,
)
_PHOTOS = TrainConfig(
    dataset="cifar-fs",
    shots=5,
    encoder="conv4",
    norm="inductive",
    order="second",
    inner_scope="head",
    meta_batch=4,
    updates=2_000,
    eval_every=200,
    eval_steps=(1, 10),
)
"""What the bundled model of small photographs was trained with; for folders of photographs."""


def _omniglot(shots: int) -> dict[str, TrainConfig]:
    base = replace(_OMNIGLOT, shots=shots)
    return {
        "paper": replace(base, encoder="conv4", invert=True, updates=30_000, eval_episodes=500),
        "released": replace(base, encoder="conv4-released", split_scheme="released", updates=3_000, eval_episodes=992),
    }


def _colour(dataset: str, shots: int) -> dict[str, TrainConfig]:
    base = replace(_COLOUR, dataset=dataset, shots=shots, meta_batch=4 if shots == 1 else 2)
    pool = 10_000 if shots == 1 else 5_000
    return {
        "paper": replace(base, encoder="conv4"),
        "released": replace(base, encoder="conv4-released", pool_size=pool, relabel=True),
    }


_FAMILIES = {
    "omniglot": _omniglot,
    "mini-imagenet": partial(_colour, "mini-imagenet"),
    "cifar-fs": partial(_colour, "cifar-fs"),
}
RECIPES = {"glyphs": TrainConfig(inner_steps=2, eval_steps=(1, 2, 3)), "photos": _PHOTOS} | {
    f"{dataset}-5w{shots}s-{variant}": config
    for shots in (1, 5)
    for dataset, family in _FAMILIES.items()
    for variant, config in family(shots).items()
}


def recipe(name: str) -> TrainConfig:
    """Return the configuration of that name."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}: {did_you_mean(name, RECIPES)}choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


MOST_SEEDS = 1000
VARIED = tuple(field.name for field in fields(TrainConfig) if field.name not in ("seed", "start", "weights"))
"""Fields that variants may differ in; a start brings other fields."""


def sweep_configs(
    config: TrainConfig,
    seeds: int,
    varied: Mapping[str, Sequence[Any]] | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> dict[Path, TrainConfig]:
    """Combine every variant with the seeds `config.seed` and following, by the folder of its run.

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
    folders = [variant_folder(variant) for variant in variants]
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise InputError(f"two variants have the folder {twice}: train them apart, into an --out each")
    one_size = without_ranges(varied or {})
    return {
        folder / f"seed-{seed}": with_fields(config, **{**given, **one_size, **variant, "seed": seed})
        for folder, variant in zip(folders, variants, strict=True)
        for seed in range(config.seed, config.seed + seeds)
    }


def variant_folder(variant: Mapping[str, Any]) -> Path:
    """Name a variant's folder: its fields, or none for the configuration itself.

    >>> variant_folder({"head": "learned", "eval_steps": (1, 3)}).name
    'head=learned,eval-steps=1-3'
    """
    return Path(",".join(f"{name.replace('_', '-')}={_in_name(value)}" for name, value in variant.items()).lower())


def _in_name(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value).replace("/", "_")


def first_run(folder: Path) -> Path | None:
    """Find the run of the lowest seed, of the first variant by name; None where there is none."""
    runs = [*folder.glob("seed-*"), *folder.glob("*=*/seed-*")]
    found = [(run.parent, int(run.name[5:]), run) for run in runs if run.name[5:].isdigit()]
    return min(found)[-1] if found else None
