"""Inner steps at test and the order of labels, on the second-order models that the authors published."""

from metacontrast.experiments.claims import Accuracy, Claim, Comparison, Endpoint, Measure, Number, above
from metacontrast.experiments.measurement import LABEL_ORDER
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import AuthorsTest, FigureSpec, MeasuredCurve, Panel
from metacontrast.plots.curves import Look

_RANDOM, _TRICK = "MAML, SO, random", "MAML, SO, zeroing trick"
_TEST = AuthorsTest(
    folder="authors-steps",
    shape="trained with one step of the head",
    curves={_RANDOM: MeasuredCurve("kept", Look("orange", "o")), _TRICK: MeasuredCurve("zeroed", Look("blue", "^"))},
    steps=(1, 5, 20),
    reorders=True,
)
_KEPT, _ZEROED = (Accuracy(curve.head, 1) for curve in _TEST.curves.values())


def _panels(setting: Setting) -> list[Panel]:
    return [Panel(_TEST.kind, _KEPT, str(_TEST.kind))]


def _more_steps(curve: str, head: Accuracy, measure: Measure, margin: float = 0.0) -> Comparison:
    """Compare the most steps that were tried with one step, on the same models."""
    many = Accuracy(head.head, _TEST.steps[-1])
    label = f"{curve}: {many} − {head}"
    return Comparison(label, _TEST.kind, (Endpoint(curve, many),), (Endpoint(curve, head),), measure, margin)


def _no_effect() -> Comparison:
    """Compare the effect of the order with nothing: from a zeroed head it is that of ties alone."""
    label = f"{_TRICK}, {LABEL_ORDER}"
    return Comparison(label, _TEST.kind, (Endpoint(_TRICK, Number(LABEL_ORDER)),), (), "equal", 0.005)


def _claims(setting: Setting) -> list[Claim]:
    return [
        Claim(
            "With a meta-learned head MAML needs many inner steps: 20 at test are better than the one of the training "
            "(Ye and Chao 2022).",
            (_more_steps(_RANDOM, _KEPT, "higher"),),
        ),
        Claim(
            "With the zeroing trick one inner step is enough: 20 at test are within one point of it.",
            (_more_steps(_TRICK, _ZEROED, "equal", 0.01),),
        ),
        Claim(
            "The order of the labels changes the 1-shot accuracy of MAML with a meta-learned head, by more than 5 "
            "points more than with a zeroed head, where it has no effect (Ye and Chao 2022).",
            (above(_TEST.kind, _RANDOM, _TRICK, Number(LABEL_ORDER), margin=0.05), _no_effect()),
        ),
    ]


SPEC = FigureSpec(
    name="steps-at-test",
    title="Inner steps at test, and the order of labels",
    question="Do more inner steps at test help a trained model, and does it matter which class has which label?",
    claims=_claims,
    panels=_panels,
    plot="steps",
    authors_test=_TEST,
    deviations=(
        "The models are the authors' own: second order, 20,000 updates on miniImageNet, 5-way 1-shot, one inner step "
        "of the head at the rate 0.1; three seeds of a randomly initialized head and three with the zeroing trick. "
        "Nothing is trained here. At test the inner steps are of the whole network, as in their tests.",
        f"Each is tested on the same {_TEST.tasks} tasks; the order of labels with one step, on 100 of them: every "
        "class has every label once, and what counts is the best minus the worst of the five accuracies, mean over "
        "tasks.",
    ),
    of_paper=False,
)
