"""Curves that several figures share: one per treatment of the head, plain training, and the reformulated losses."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from metacontrast.experiments.claims import Quantity, TaskKind
from metacontrast.experiments.setting import BOTH, Family, MeasurementPlan, Setting, base_config, measurement_plan
from metacontrast.experiments.spec import AuthorsCurve, Curve, Panel
from metacontrast.plots.curves import Look

DATASET_NAMES = {"glyphs": "glyphs", "omniglot": "Omniglot", "cifar-fs": "CIFAR-FS", "mini-imagenet": "miniImageNet"}
TREATMENTS: dict[str, tuple[str, Look, dict[str, Any]]] = {
    "random": ("random init", Look("red", "o"), {"head": "learned", "head_init_scale": 1.0}),
    "random × 0.7": ("random init x0.7", Look("orange", "v"), {"head": "learned", "head_init_scale": 0.7}),
    "random × 0.5": ("random init x0.5", Look("purple", "D"), {"head": "learned", "head_init_scale": 0.5}),
    "zero init": ("zero init", Look("green", "s", wide=True), {"head": "learned", "head_init_scale": 0.0}),
    "zeroing trick": ("zeroing trick", Look("blue", "^"), {"head": "zeroed"}),
}
"""By start of the head: its name among the authors' curves, how its curves are drawn, and fields of the training."""
THREE = ("random", "zero init", "zeroing trick")
OMNIGLOT_HEADS = ("random", "random × 0.5", "zero init", "zeroing trick")


def task_kind(setting: Setting, family: Family, shots: int) -> TaskKind:
    """Name 5-way tasks of the family; at smoke scale after what the glyphs stand for."""
    name = f"glyphs for {family}" if setting.scale == "smoke" else DATASET_NAMES[setting.dataset(family)]
    return TaskKind(name, f"5-way {shots}-shot")


def head_curves(
    setting: Setting,
    family: Family,
    shots: int,
    plan: MeasurementPlan,
    heads: Sequence[str] = THREE,
    authors: tuple[str, str] | None = None,
    prefix: str = "",
    **changes: Any,
) -> list[Curve]:
    """Build one curve per treatment of the head.

    Args:
        authors: the authors' figure, and what its curves are called before the name of the head.
        prefix: before the name of the head.
        changes: fields of the training.
    """
    is_dashed = changes.get("order") == "second"
    return [
        Curve(
            task_kind(setting, family, shots),
            prefix + head,
            replace(look, dashed=is_dashed),
            base_config(setting, family, shots, **fields, **changes),
            plan,
            setting.seed_numbers(),
            None if authors is None else AuthorsCurve(authors[0], f"{authors[1]} {name}", shots),
        )
        for head in heads
        for name, look, fields in [TREATMENTS[head]]
    ]


def panel(
    setting: Setting, family: Family, shots: int, quantity: Quantity, curves: tuple[str, ...] | None = None
) -> Panel:
    """Build a drawn panel, titled with what it shows."""
    kind = task_kind(setting, family, shots)
    return Panel(kind, quantity, f"{kind}, {quantity.description}", curves)


def omniglot_first_order(setting: Setting, shots: int, heads: Sequence[str], figure: str) -> list[Curve]:
    """Build FOMAML on Omniglot: 30,000 updates in the paper's text, 3,000 in the authors' runs."""
    plan = measurement_plan(setting, "omniglot", 300, 3_000 if setting.protocol == "authors" else 30_000, heads=BOTH)
    return head_curves(setting, "omniglot", shots, plan, heads, (figure, "FOMAML"))


def omniglot_second_order(setting: Setting, shots: int, figure: str) -> list[Curve]:
    """Build SOMAML on Omniglot: 20,000 updates in the paper's text."""
    full = 3_000 if setting.protocol == "authors" else 20_000
    plan = measurement_plan(setting, "omniglot", 150, full, stage_steps=(1, 3))
    return head_curves(setting, "omniglot", shots, plan, THREE, (figure, "SOMAML"), "SO ", order="second")


def colour_first_order(
    setting: Setting, shots: int, figure: str, heads: Sequence[str] = tuple(TREATMENTS)
) -> list[Curve]:
    """Build FOMAML on colour images."""
    steps = {"steps": (1, 3, 5), "stage_steps": (1, 3, 5, 10), "heads": BOTH}
    if shots > 1:
        steps = {"steps": (1, 3), "stage_steps": (1, 3, 10)}
    plan = measurement_plan(setting, "colour", 600 if shots == 1 else 300, 30_000, **steps)
    return head_curves(setting, "colour", shots, plan, heads, (figure, "FOMAML"))


def colour_second_order(setting: Setting, shots: int) -> list[Curve]:
    """Build SOMAML on colour images."""
    plan = measurement_plan(setting, "colour", 300 if shots == 1 else 200, 30_000, steps=(1, 3), stage_steps=(1, 3, 10))
    return head_curves(setting, "colour", shots, plan, THREE, ("6", "SOMAML"), "SO ", order="second")
