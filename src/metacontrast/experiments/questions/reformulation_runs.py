"""The runs of Fig. 8 and 9: one inner step of the head alone, as MAML and as its contrastive loss."""

from typing import Any

from metacontrast.experiments.questions.common import HEADS, panel_name
from metacontrast.experiments.schedule import Schedule
from metacontrast.experiments.setting import Setting, base_config, schedule
from metacontrast.experiments.spec import Line, ReleasedCurve

_CONTRASTIVE = {"objective": "contrastive"}
VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "MAML, FO, random": ("random", {}, "MAML_FO_random"),
    "MAML, FO, zeroing trick": ("zeroing trick", {}, "MAML_FO_zeroing"),
    "MAML, SO, zeroing trick": ("zeroing trick", {"order": "second"}, "MAML_SO_zeroing"),
    "Eq. 7": ("random", _CONTRASTIVE, "contrastive_FO ITF=1 nCTT=1"),
    "Eq. 15": ("zeroing trick", _CONTRASTIVE, "contrastive_FO_zeroing (Eq 15)"),
    "Eq. 16": ("zeroing trick", _CONTRASTIVE | {"order": "second"}, "contrastive_SO_zeroing (Eq 16)"),
    "no interference": (
        "random",
        _CONTRASTIVE | {"drop_interference": True},
        "contrastive_FO ITF=0 nCTT=1",
    ),
    "no noise": ("random", _CONTRASTIVE | {"drop_noise": True}, "contrastive_FO ITF=1 nCTT=0"),
    "both dropped": (
        "random",
        _CONTRASTIVE | {"drop_interference": True, "drop_noise": True},
        "contrastive_FO ITF=0 nCTT=0",
    ),
}
"""Name of the line: start of the head, fields of the training, released curve."""


def reformulation_line(setting: Setting, name: str) -> Line:
    """One of `VARIANTS`; the released code adapts the encoder at test, the paper's text does not."""
    head, changes, curve = VARIANTS[name]
    is_released = setting.protocol == "released"
    inner = {"inner_steps": 1, "inner_scope": "head", "meta_batch": 4, "head_bias": False}
    lr = {"inner_lr": 0.1 if is_released else 0.01}
    config = base_config(setting, "colour", 1, **inner, **lr, **HEADS[head], **changes)
    panel = f"{panel_name(setting, 'colour', 1)}, one step of the head"
    return Line(
        panel,
        name,
        config,
        _schedule(setting),
        setting.seed_numbers(),
        ReleasedCurve("9" if " ITF=" in curve else "8", curve, 1),
    )


def _schedule(setting: Setting) -> Schedule:
    is_released = setting.protocol == "released"
    scope = {"scope": "all" if is_released else "head"}
    end = 20_000 if is_released else 30_000
    return schedule(setting, "colour", 300, end, stage_steps=(1, 3, 10), **scope)
