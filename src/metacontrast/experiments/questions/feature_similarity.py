"""Fig. 2: do features of one class grow alike, and more so without interference?"""

from metacontrast.experiments.questions.common import THREE, head_lines
from metacontrast.experiments.schedule import Schedule
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import Claim, Comparison, FigureSpec, Line, Reading, View, above

_IMAGES = 20
_SAME_CLASS = {
    "random": "+0.002 (from update 11 to 101)",
    "zero init": "−0.030 (from update 11 to 101)",
    "zeroing trick": "−0.071 (from update 11 to 101)",
}


def _lines(setting: Setting) -> list[Line]:
    updates = (1, 11, 101) if setting.protocol == "released" else (1, 10, 100)
    plan = Schedule((1, 2) if setting.scale == "smoke" else updates, what="similarity")
    one_task = {"queries": _IMAGES, "meta_batch": 1, "pool_size": 1, "relabel": True, "inner_steps": 5}
    lines = head_lines(setting, "colour", _IMAGES, plan, THREE, ("2", ""), **one_task)
    return [_on_test_classes(line, setting) for line in lines]


def _on_test_classes(line: Line, setting: Setting) -> Line:
    panel = line.panel.replace(f"5-way {_IMAGES}-shot", "one fixed 5-way task")
    return Line(
        panel, line.name, line.config, line.schedule, setting.seed_numbers(10), line.released, train_split="test"
    )


def _views(setting: Setting) -> list[View]:
    panel = _lines(setting)[0].panel
    return [View(panel, name, f"{panel}, {name}") for name in ("query-support", "query-query")]


def _pulled(panel: str, line: str, released: str) -> Comparison:
    readings = Reading(line, "query-support, same class"), Reading(line, "query-support, same class", "early")
    label = f"{line}: similarity within a class at the end − early, query-support"
    return Comparison(label, panel, readings[:1], readings[1:], released=released)


def _claims(setting: Setting) -> list[Claim]:
    panel = _lines(setting)[0].panel
    grown = Comparison(
        "random: contrast at the end − early, query-support",
        panel,
        (Reading("random", "query-support"),),
        (Reading("random", "query-support", "early"),),
        released="+0.069 (from update 11 to 101)",
    )
    return [
        Claim(
            "Query features are pulled towards the support features of their class (Section 3.2).",
            tuple(_pulled(panel, *each) for each in _SAME_CLASS.items()),
            "no: it stays (random) or falls (zero init, trick), only less than the similarity between classes",
            "end",
        ),
        Claim("MAML learns to separate the features of different classes.", (grown,), "yes", "end"),
        Claim(
            "Zero initialization raises the contrast.",
            (
                above(panel, "zero init", "random", "query-support", released="+0.038 ± 0.023 (s.e., 10 seeds)"),
                above(panel, "zero init", "random", "query-query", released="+0.140"),
            ),
            "yes but noisy: 8 of 10 seeds",
            "end",
        ),
        Claim(
            "The zeroing trick raises it further.",
            (
                above(panel, "zeroing trick", "zero init", "query-support", released="+0.001 ± 0.006 (s.e., 10 seeds)"),
                above(panel, "zeroing trick", "zero init", "query-query", released="+0.084"),
            ),
            "among queries yes; between query and support, the quantity of the theory, no",
            "end",
        ),
    ]


SPEC = FigureSpec(
    name="feature-similarity",
    title="How alike features are",
    question="Do features of the same class grow alike and others apart, and more so without interference?",
    papers="2",
    lines=_lines,
    views=_views,
    claims=_claims,
    plot="heatmaps",
    faults=(
        "The published maps among queries count the pairs of an image with itself, which lifts their diagonal by about "
        "0.03; here these are left out. The moments called 1, 10 and 100 are after 1, 11 and 101 updates. The first "
        "published panel shows absolute values.",
    ),
    departures=("The task is of test classes, as in the released code; the paper does not say.",),
)
