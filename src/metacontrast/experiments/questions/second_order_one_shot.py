"""Not in the paper, but among the released data: SOMAML 1-shot on Omniglot, which fails without the trick."""

from metacontrast.experiments.questions.common import panel_name, view
from metacontrast.experiments.questions.main_runs import omniglot_second_order
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import Claim, FigureSpec, Line, View, above


def _lines(setting: Setting) -> list[Line]:
    return omniglot_second_order(setting, 1, "none (Omniglot SO 1-shot)")


def _views(setting: Setting) -> list[View]:
    return [view(setting, "omniglot", 1, "zeroed/1")]


def _claims(setting: Setting) -> list[Claim]:
    panel = panel_name(setting, "omniglot", 1)
    return [
        Claim(
            "(Not in the paper.) In 1-shot SOMAML the trick decides whether anything is learned; by 10 points.",
            tuple(
                above(panel, "SO zeroing trick", other, "zeroed/1", "end", 0.1, released)
                for other, released in (("SO random", "+44.7 (4 seeds)"), ("SO zero init", "+28.1 (1 seed)"))
            ),
            "yes: .448 random, .614 zero init, .895 trick after 3,000 updates",
            "end",
        )
    ]


SPEC = FigureSpec(
    name="second-order-one-shot",
    title="Second order, one shot, Omniglot",
    question="Does second-order MAML learn Omniglot from one shot at the released rate of 0.4?",
    papers="none: only in the released data",
    lines=_lines,
    views=_views,
    claims=_claims,
)
