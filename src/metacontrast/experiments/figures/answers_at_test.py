"""Ways to classify at test, on encoders that the authors trained in different ways."""

from metacontrast.experiments.claims import Accuracy, Claim, Quantity, Solved, same_gain
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import AuthorsTest, FigureSpec, MeasuredCurve, Panel
from metacontrast.plots.curves import Look

_REFERENCE = "MAML, SO, zeroing trick"
_OTHERS = ("MAML, SO, random", "Eq. 15", "Eq. 7, head frozen", "no noise")
"""Whose gains are compared with those of the reference: a random head, and training without an inner loop."""
_LOOKS = {
    "MAML, FO, random": Look("orange", "o"),
    "MAML, SO, random": Look("orange", "s"),
    "MAML, FO, zeroing trick": Look("blue", "o"),
    _REFERENCE: Look("blue", "s"),
    "Eq. 15": Look("sky", "o"),
    "Eq. 16": Look("sky", "s"),
    "Eq. 7, head frozen": Look("green", "D"),
    "no interference, head frozen": Look("green", "v"),
    "no noise": Look("red", "^"),
    "both dropped, head frozen": Look("red", "v"),
}
_TEST = AuthorsTest(
    folder="authors-answers",
    shape="trained in 1-shot, tested on 5-way 5-shot",
    curves={name: MeasuredCurve("zeroed", look) for name, look in _LOOKS.items()},
    steps=(1, 10),
    solvers=("nearest-mean", "nearest-cosine", "ridge", "logistic"),
    shots=5,
    scope="head",
)
_BASE = Solved("nearest-mean")
_ANSWERS: dict[str, Quantity] = {
    "ridge regression": Solved("ridge"),
    "logistic regression": Solved("logistic"),
    "10 steps of the head": Accuracy("zeroed", 10),
}
"""What a claim speaks of."""


def _panels(setting: Setting) -> list[Panel]:
    return [Panel(_TEST.kind, answer, name) for name, answer in _ANSWERS.items()]


def _claims(setting: Setting) -> list[Claim]:
    return [
        Claim(
            f"The gain of {name} over the nearest class mean is the same, within one point, on encoders of five ways "
            "of training (Luo et al. 2023: training and adaptation can be chosen independently).",
            tuple(same_gain(_TEST.kind, other, _REFERENCE, answer, _BASE, 0.01) for other in _OTHERS),
        )
        for name, answer in _ANSWERS.items()
    ]


SPEC = FigureSpec(
    name="answers-at-test",
    title="Ways to classify at test, on encoders trained in different ways",
    question="Does the best way to classify at test depend on how the encoder was trained?",
    claims=_claims,
    panels=_panels,
    plot="answers",
    authors_test=_TEST,
    deviations=(
        "The models are the authors' own: 20,000 updates on miniImageNet, 5-way 1-shot, ten ways of training, three "
        "seeds each; one seed of first-order MAML with a random head and one with the trick stop at 10,000 updates. "
        "Nothing is trained here.",
        f"Each is tested on the same {_TEST.tasks} tasks, in 5-shot: in 1-shot the classifiers are nearly the same. "
        "All use the un-adapted features; inner steps are of a zeroed head alone, at the rate 0.1.",
        "The ways of training are relatives. Whether the claim holds for methods that differ more is the question of "
        "`figure family`.",
    ),
    of_paper=False,
)
