"""Fig. 2: do features of one class grow alike, and more so without interference?"""

from dataclasses import replace

from metacontrast.experiments.claims import Claim, Comparison, Endpoint, Similarity, TaskKind, above
from metacontrast.experiments.figures.treatments import THREE, head_curves, task_kind
from metacontrast.experiments.setting import MeasurementPlan, Setting
from metacontrast.experiments.spec import Curve, FigureSpec, Panel

_IMAGES = 20
_ACROSS, _AMONG = Similarity("query-support"), Similarity("query-query")


def _curves(setting: Setting) -> list[Curve]:
    updates = (1, 11, 101) if setting.protocol == "authors" else (1, 10, 100)
    plan = MeasurementPlan((1, 2) if setting.scale == "smoke" else updates, what="similarity")
    one_task = {"queries": _IMAGES, "meta_batch": 1, "pool_size": 1, "relabel": True, "inner_steps": 5}
    curves = head_curves(setting, "colour", _IMAGES, plan, THREE, ("2", ""), **one_task)
    return [replace(curve, kind=_kind(setting), seeds=setting.seed_numbers(10), train_split="test") for curve in curves]


def _kind(setting: Setting) -> TaskKind:
    return TaskKind(task_kind(setting, "colour", _IMAGES).data, "one fixed 5-way task for each seed")


def _panels(setting: Setting) -> list[Panel]:
    kind = _kind(setting)
    return [Panel(kind, quantity, f"{kind}, {quantity.description}") for quantity in (_ACROSS, _AMONG)]


def _grown(kind: TaskKind, curve: str, quantity: Similarity) -> Comparison:
    """Compare a similarity early in training with that at the end."""
    what = "similarity within a class" if quantity.is_within_class else "contrast"
    label = f"{curve}: {what} at the end − early, {quantity.pair}"
    return Comparison(label, kind, (Endpoint(curve, quantity),), (Endpoint(curve, quantity, "early"),))


def _claims(setting: Setting) -> list[Claim]:
    kind = _kind(setting)
    return [
        Claim(
            "Query features are pulled towards the support features of their class (Section 3.2).",
            tuple(_grown(kind, head, replace(_ACROSS, is_within_class=True)) for head in THREE),
            "no: it stays (random) or falls (zero init, trick), only less than the similarity between classes",
        ),
        Claim("MAML learns to separate the features of different classes.", (_grown(kind, "random", _ACROSS),), "yes"),
        Claim(
            "Zero initialization raises the contrast.",
            tuple(above(kind, "zero init", "random", quantity) for quantity in (_ACROSS, _AMONG)),
            "yes but noisy: 8 of 10 seeds",
        ),
        Claim(
            "The zeroing trick raises it further.",
            tuple(above(kind, "zeroing trick", "zero init", quantity) for quantity in (_ACROSS, _AMONG)),
            "among queries yes; between query and support, the quantity of the theory, no",
        ),
    ]


SPEC = FigureSpec(
    name="feature-similarity",
    title="How alike features are",
    question="Do features of the same class grow alike and others apart, and more so without interference?",
    paper_figures=(2,),
    curves=_curves,
    panels=_panels,
    claims=_claims,
    plot="heatmaps",
    faults=(
        "The published maps among queries count the pairs of an image with itself, which lifts their diagonal by about "
        "0.03; here these are left out. The moments called 1, 10 and 100 are after 1, 11 and 101 updates. The first "
        "published panel shows absolute values.",
    ),
    deviations=(
        "The task is of test classes, as in the authors' code; the paper does not say.",
        "Each seed has a different task, so that the interval over seeds covers tasks as well.",
    ),
)
