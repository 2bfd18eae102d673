"""What the questions share: the starts of the head, names of panels, and lines over them."""

from collections.abc import Sequence
from typing import Any

from metacontrast.experiments.schedule import Schedule
from metacontrast.experiments.setting import Family, Setting, base_config
from metacontrast.experiments.spec import Line, ReleasedCurve, View

HEADS: dict[str, dict[str, Any]] = {
    "random": {"head": "learned", "head_init_scale": 1.0},
    "random × 0.7": {"head": "learned", "head_init_scale": 0.7},
    "random × 0.5": {"head": "learned", "head_init_scale": 0.5},
    "zero init": {"head": "learned", "head_init_scale": 0.0},
    "zeroing trick": {"head": "zeroed"},
}
RELEASED_HEADS = {
    "random": "random init",
    "random × 0.7": "random init x0.7",
    "random × 0.5": "random init x0.5",
    "zero init": "zero init",
    "zeroing trick": "zeroing trick",
}
THREE = ("random", "zero init", "zeroing trick")

_DATASETS = {"glyphs": "glyphs", "omniglot": "Omniglot", "cifar-fs": "CIFAR-FS", "mini-imagenet": "miniImageNet"}


def panel_name(setting: Setting, family: Family, shots: int) -> str:
    """Data set and shape of the tasks; of the smoke length also what the glyphs stand for."""
    name = _DATASETS[setting.dataset(family)]
    if setting.scale == "smoke":
        name = f"glyphs for {family}"
    return f"{name}, 5-way {shots}-shot"


def head_lines(
    setting: Setting,
    family: Family,
    shots: int,
    schedule: Schedule,
    heads: Sequence[str] = THREE,
    released: tuple[str, str] | None = None,
    prefix: str = "",
    **changes: Any,
) -> list[Line]:
    """One line per start of the head.

    Args:
        released: the released figure, and what its curves are called before the name of the head.
        prefix: before the name of the head.
        changes: fields of the training.
    """
    return [
        Line(
            panel_name(setting, family, shots),
            prefix + head,
            base_config(setting, family, shots, **HEADS[head], **changes),
            schedule,
            setting.seed_numbers(),
            None if released is None else ReleasedCurve(released[0], f"{released[1]} {RELEASED_HEADS[head]}", shots),
        )
        for head in heads
    ]


def view(setting: Setting, family: Family, shots: int, quantity: str, lines: tuple[str, ...] | None = None) -> View:
    """A drawn panel, titled with what it shows."""
    panel = panel_name(setting, family, shots)
    return View(panel, quantity, f"{panel}, {describe_quantity(quantity)}", lines)


def describe_quantity(quantity: str) -> str:
    """A measured quantity in words.

    >>> describe_quantity("zeroed/1")
    'head zeroed at test, step 1'
    """
    head, _, steps = quantity.partition("/")
    after = "steps as in training" if steps == "own" else f"step {steps}"
    return f"head {head} at test, {after}" if steps else quantity
