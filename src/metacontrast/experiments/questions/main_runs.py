"""The runs that several figures share, and how these are measured: plain 5-way 1-shot and 5-shot training."""

from collections.abc import Sequence

from metacontrast.experiments.questions.common import HEADS, THREE, head_lines
from metacontrast.experiments.schedule import BOTH, Schedule
from metacontrast.experiments.setting import Setting, schedule
from metacontrast.experiments.spec import Line

OMNIGLOT_HEADS = ("random", "random × 0.5", "zero init", "zeroing trick")


def omniglot_schedule(setting: Setting) -> Schedule:
    """FOMAML on Omniglot; the paper's text says 30,000 updates, the released runs have 3,000."""
    full = 3_000 if setting.protocol == "released" else 30_000
    return schedule(setting, "omniglot", 300, full, heads=BOTH)


def omniglot_first_order(setting: Setting, shots: int, heads: Sequence[str], figure: str) -> list[Line]:
    """FOMAML on Omniglot."""
    return head_lines(setting, "omniglot", shots, omniglot_schedule(setting), heads, (figure, "FOMAML"))


def omniglot_second_order(setting: Setting, shots: int, figure: str) -> list[Line]:
    """SOMAML on Omniglot; the paper's text says 20,000 updates."""
    full = 3_000 if setting.protocol == "released" else 20_000
    plan = schedule(setting, "omniglot", 150, full, stage_steps=(1, 3))
    return head_lines(setting, "omniglot", shots, plan, THREE, (figure, "SOMAML"), "SO ", order="second")


def colour_schedule(setting: Setting, shots: int) -> Schedule:
    """FOMAML on colour images."""
    if shots == 1:
        steps = {"steps": (1, 3, 5), "stage_steps": (1, 3, 5, 10), "heads": BOTH}
        return schedule(setting, "colour", 600, 30_000, **steps)
    return schedule(setting, "colour", 300, 30_000, steps=(1, 3), stage_steps=(1, 3, 10))


def colour_first_order(setting: Setting, shots: int, figure: str, heads: Sequence[str] = tuple(HEADS)) -> list[Line]:
    """FOMAML on colour images."""
    return head_lines(setting, "colour", shots, colour_schedule(setting, shots), heads, (figure, "FOMAML"))


def colour_second_order(setting: Setting, shots: int) -> list[Line]:
    """SOMAML on colour images."""
    local = 300 if shots == 1 else 200
    plan = schedule(setting, "colour", local, 30_000, steps=(1, 3), stage_steps=(1, 3, 10))
    return head_lines(setting, "colour", shots, plan, THREE, ("6", "SOMAML"), "SO ", order="second")
