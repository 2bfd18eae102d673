"""Not in the paper, but among the authors' data: SOMAML on Omniglot from one shot, and 25 shots."""

from metacontrast.experiments.claims import Accuracy, Claim, above, faster
from metacontrast.experiments.figures.treatments import THREE, head_curves, omniglot_second_order, panel, task_kind
from metacontrast.experiments.setting import Setting, measurement_plan
from metacontrast.experiments.spec import Curve, FigureSpec

_SHOTS = 25
_STEP_1, _STEP_5 = Accuracy("zeroed", 1), Accuracy("zeroed", 5)


def _one_shot_claims(setting: Setting) -> list[Claim]:
    kind = task_kind(setting, "omniglot", 1)
    return [
        Claim(
            "(Not in the paper.) In 1-shot SOMAML the trick decides whether anything is learned: it gains more than "
            "10 points.",
            tuple(
                above(kind, "SO zeroing trick", other, _STEP_1, "end", 0.1) for other in ("SO random", "SO zero init")
            ),
            "yes: .448 random, .614 zero init, .895 trick after 3,000 updates",
        )
    ]


def _many_shots(setting: Setting) -> list[Curve]:
    plan = measurement_plan(setting, "colour", 100, 10_000, steps=(1, 5), stage_steps=(1, 5, 10))
    return head_curves(setting, "colour", _SHOTS, plan, THREE, ("none (25-shot)", "FOMAML"))


def _many_shots_claims(setting: Setting) -> list[Claim]:
    kind = task_kind(setting, "colour", _SHOTS)
    return [
        Claim(
            "(Not in the paper.) Zero initialization and the trick speed up learning with 25 shots.",
            tuple(faster(kind, fast, "random", _STEP_5) for fast in THREE[1:]),
            "yes: .504 / .617 / .651 after 1,000 updates",
            "early",
        ),
        Claim(
            "(Not in the paper.) The trick ends above a random head with 25 shots.",
            (above(kind, "zeroing trick", "random", _STEP_5),),
            "yes, but 0.2 points below zero initialization (−0.5 paired, 2 seeds)",
        ),
    ]


SECOND_ORDER_ONE_SHOT = FigureSpec(
    name="second-order-one-shot",
    title="Second order, one shot, Omniglot",
    question="Does second-order MAML learn Omniglot from one shot at the authors' rate of 0.4?",
    curves=lambda setting: omniglot_second_order(setting, 1, "none (Omniglot SO 1-shot)"),
    panels=lambda setting: [panel(setting, "omniglot", 1, _STEP_1)],
    claims=_one_shot_claims,
)
TWENTY_FIVE_SHOTS = FigureSpec(
    name="twenty-five-shots",
    title="Twenty-five shots",
    question="Does the trick still matter when there are 25 examples per class?",
    curves=_many_shots,
    panels=lambda setting: [panel(setting, "colour", _SHOTS, _STEP_5)],
    claims=_many_shots_claims,
    deviations=(
        "The authors' code leaves the tasks per update undefined for 25 shots; here 2 as in 5-shot, drawn afresh. "
        "The length smoke has 10 shots.",
    ),
)
