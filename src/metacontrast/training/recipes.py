"""Named configurations of the published protocols.

Where the text does not say (inner steps in training and at test) `paper` follows the authors' code, which updates with
the mean over tasks, as this library does everywhere; but it inverts Omniglot's images, which that code does not.
"""

from dataclasses import replace
from functools import partial

from metacontrast.errors import InputError, did_you_mean
from metacontrast.training.config import TrainConfig

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
    """Return the configuration of a recipe, which `metacontrast train --recipe NAME` starts from.

    >>> recipe("omniglot-5w1s-released").inner_lr
    0.4

    Args:
        name: such as `glyphs`, `photos`, or a data set, ways, shots and `paper` or `released`.

    Raises:
        InputError: there is none of that name; the message lists them.
    """
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}: {did_you_mean(name, RECIPES)}choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
