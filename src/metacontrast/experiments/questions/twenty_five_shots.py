"""Not in the paper, but among the released data: 25 shots."""

from metacontrast.experiments.questions.common import THREE, head_lines, panel_name, view
from metacontrast.experiments.setting import Setting, schedule
from metacontrast.experiments.spec import Claim, FigureSpec, Line, View, above, faster

_SHOTS = 25


def _lines(setting: Setting) -> list[Line]:
    plan = schedule(setting, "colour", 100, 10_000, steps=(1, 5), stage_steps=(1, 5, 10))
    released = "none (25-shot)", "FOMAML"
    return head_lines(setting, "colour", _SHOTS, plan, THREE, released)


def _views(setting: Setting) -> list[View]:
    return [view(setting, "colour", _SHOTS, "zeroed/5")]


def _claims(setting: Setting) -> list[Claim]:
    panel = panel_name(setting, "colour", _SHOTS)
    return [
        Claim(
            "(Not in the paper.) Zero initialization and the trick speed up learning with 25 shots.",
            tuple(faster(panel, fast, "random", "zeroed/5") for fast in THREE[1:]),
            "yes: .504 / .617 / .651 after 1,000 updates",
            "early",
        ),
        Claim(
            "(Not in the paper.) The trick ends above a random head with 25 shots.",
            (above(panel, "zeroing trick", "random", "zeroed/5", released="+1.4 (means of 2 and 4 seeds)"),),
            "yes, but 0.2 points below zero initialization (−0.5 paired, 2 seeds)",
            "end",
        ),
    ]


SPEC = FigureSpec(
    name="twenty-five-shots",
    title="Twenty-five shots",
    question="Does the trick still matter when there are 25 examples per class?",
    papers="none: only in the released data",
    lines=_lines,
    views=_views,
    claims=_claims,
    departures=(
        "The released code leaves the tasks per update undefined for 25 shots; here 2 as in 5-shot, drawn afresh. "
        "The length smoke has 10 shots.",
    ),
)
