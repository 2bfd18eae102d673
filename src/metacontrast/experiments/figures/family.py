"""All methods with the same encoder, budget and evaluation, and claims of later papers about MAML."""

from dataclasses import replace
from typing import Any

from metacontrast.experiments.budgets import OWN, SELECTED
from metacontrast.experiments.claims import (
    Claim,
    Comparison,
    Endpoint,
    Number,
    Solved,
    TaskKind,
    above,
    same,
    same_gain,
)
from metacontrast.experiments.figures.treatments import task_kind
from metacontrast.experiments.measurement import LABEL_ORDER
from metacontrast.experiments.setting import Family, Setting, base_config, measurement_plan
from metacontrast.experiments.spec import Curve, FigureSpec, Panel
from metacontrast.model.solvers import Solver
from metacontrast.plots.curves import Look
from metacontrast.training.config import with_fields

_TASKS: tuple[tuple[Family, int], ...] = (("omniglot", 1), ("omniglot", 5), ("colour", 1), ("colour", 5))
_LENGTH: dict[Family, int] = {"omniglot": 3_000, "colour": 5_000}
"""Updates; methods that depend on their number always anneal over this number."""
_VALIDATION: dict[Family, dict[str, int]] = {
    "omniglot": {"eval_every": 60, "eval_episodes": 200},
    "colour": {"eval_every": 100, "eval_episodes": 200},
}
"""When models are compared for selection, at any length alike: a run that is continued chooses as a longer one does."""
_METHODS = {
    "maml": ("MAML, head zeroed", Look("blue", "^", wide=True), {"head": "zeroed"}),
    "protonet": ("ProtoNet", Look("green", "s"), {}),
    "cosine": ("cosine", Look("green", "s", dashed=True), {}),
    "ridge": ("ridge (R2D2)", Look("purple", "D"), {}),
    "meta-sgd": ("Meta-SGD", Look("orange", "v"), {}),
    "maml++": ("MAML++", Look("orange", "v", dashed=True), {}),
    "reptile": ("Reptile", Look("sky", "o"), {}),
    "imaml": ("iMAML", Look("sky", "o", dashed=True), {}),
    "conml": ("ConML", Look("blue", "v", dashed=True), {"head": "learned"}),
    "supervised": ("supervised (Baseline)", Look("red", "x"), {}),
    "supervised-cosine": ("supervised by angle (Baseline++)", Look("red", "x", dashed=True), {}),
    "supcon": ("SupCon", Look("black", "+"), {}),
}
"""By name of the method, its legend, how it is drawn, and fields of its training."""
_STARTS = {
    "MAML, head learned": {"head": "learned"},
    "MAML, head zero at first": {"head": "learned", "head_init_scale": 0.0},
    "MAML, one shared row": {"head": "shared"},
    "MAML from prototypes": {"head": "prototype"},
    "MAML, head learned, 15 steps": {"head": "learned", "inner_steps": 15},
    "MAML, head zeroed, 100 tasks": {"head": "zeroed", "pool_size": 100},
    "MAML, SO, head learned": {"head": "learned", "order": "second"},
    "MAML, SO, head zeroed": {"head": "zeroed", "order": "second"},
    "ConML, head zeroed": {"method": "conml", "head": "zeroed"},
}
"""Variants of MAML that a claim speaks of."""
_MAML, _PROTONET, _BASELINE, _CONML = (_METHODS[name][0] for name in ("maml", "protonet", "supervised", "conml"))
_RIDGE, _MEAN = Solved("ridge", is_selected=True), Solved("nearest-mean", is_selected=True)


def _tasks(setting: Setting) -> tuple[tuple[Family, int], ...]:
    return _TASKS[:1] if setting.scale == "smoke" else _TASKS


def _kind(setting: Setting, family: Family, shots: int) -> TaskKind:
    kind = task_kind(replace(setting, colour="cifar-fs"), family, shots)
    return TaskKind(kind.data, f"{kind.shape}, one budget")


def _curves(setting: Setting) -> list[Curve]:
    curves = []
    for family, shots in _tasks(setting):
        for method, (name, look, fields) in _METHODS.items():
            curves.append(_curve(setting, family, shots, name, look, {"method": method, **fields}))
        if shots == 1:
            for name, fields in _STARTS.items():
                curves.append(_curve(setting, family, shots, name, Look("grey", "o"), fields))
    return curves


def _curve(setting: Setting, family: Family, shots: int, name: str, look: Look, fields: dict[str, Any]) -> Curve:
    end = _LENGTH[family]
    setting = replace(setting, colour="cifar-fs")
    plan = measurement_plan(setting, family, 300, end)
    length = plan.end if setting.scale == "smoke" else end
    chosen = {"select": True, "eval_split": "val", "updates": length}
    chosen |= {"eval_every": 1, "eval_episodes": 2} if setting.scale == "smoke" else _VALIDATION[family]
    base = base_config(setting, family, shots, encoder="conv4", pool_size=None, relabel=False, **chosen)
    config = with_fields(base, **fields)
    config = replace(config, eval_steps=(config.inner_steps,))
    solvers: tuple[Solver, ...] = ("nearest-cosine", "ridge", "logistic")
    plan = replace(plan, steps=(config.inner_steps,), stage_steps=(1, 5), solvers=solvers, selects=True)
    return Curve(_kind(setting, family, shots), name, look, config, plan, setting.seed_numbers())


def _panels(setting: Setting) -> list[Panel]:
    kinds = [_kind(setting, *task) for task in _tasks(setting)]
    names = tuple(name for name, _, _ in _METHODS.values())
    return [Panel(kind, OWN, f"{kind.data}, {kind.shape}", names) for kind in kinds]


def _claims(setting: Setting) -> list[Claim]:
    every = [_kind(setting, *task) for task in _tasks(setting)]
    one = [_kind(setting, *task) for task in _tasks(setting) if task[1] == 1]
    return [
        Claim(
            "Equal rows are enough: one shared row is within one point of a zeroed head (under cross entropy it has "
            "the same gradient, so this tests the measurement too).",
            tuple(same(kind, "MAML, one shared row", _MAML, SELECTED, 0.01) for kind in one),
        ),
        Claim(
            "A head that starts training at zero, and one that is built from class means, are within one point of a "
            "head that is zeroed after every update.",
            tuple(
                same(kind, name, _MAML, SELECTED, 0.01)
                for kind in one
                for name in ("MAML, head zero at first", "MAML from prototypes")
            ),
        ),
        Claim(
            "MAML with a learned head needs many inner steps: 15 are better than the protocol's number (Ye and "
            "Chao 2022).",
            tuple(above(kind, "MAML, head learned, 15 steps", "MAML, head learned", SELECTED) for kind in one),
        ),
        Claim(
            "The order of the labels changes the 1-shot accuracy of MAML with a learned head, by more than 5 points "
            "more than with a zeroed head, where it has no effect (Ye and Chao 2022).",
            tuple(
                comparison
                for kind in one
                for comparison in (
                    above(kind, "MAML, head learned", _MAML, Number(LABEL_ORDER), margin=0.05),
                    same(kind, _MAML, _PROTONET, Number(LABEL_ORDER), 0.005),
                )
            ),
        ),
        Claim(
            "Pretraining and MAML differ little when compared fairly: within two points, about 0.2 standard deviations "
            "over tasks (Miranda et al. 2021, 2023).",
            tuple(same(kind, _BASELINE, _MAML, SELECTED, 0.02) for kind in every),
        ),
        Claim(
            "Training and adaptation can be chosen independently (Luo et al. 2023): the gain of ridge regression over "
            "the nearest class mean is the same, within one point, on encoders of three methods.",
            tuple(
                same_gain(kind, name, _MAML, _RIDGE, _MEAN, 0.01) for kind in every for name in (_BASELINE, _PROTONET)
            ),
        ),
        Claim(
            "Few training tasks suffice: 100 are within one point of new tasks at every update (Kumar et al. 2022).",
            tuple(same(kind, "MAML, head zeroed, 100 tasks", _MAML, SELECTED, 0.01) for kind in one),
        ),
        Claim(
            "A contrast of adapted models improves second-order MAML with a learned head (ConML, Wu et al. 2024).",
            tuple(above(kind, _CONML, "MAML, SO, head learned", SELECTED) for kind in one),
        ),
        Claim(
            "Its gain with a learned head is larger than from a head that is zeroed.",
            tuple(_smaller_gain(kind) for kind in one),
        ),
    ]


def _smaller_gain(kind: TaskKind) -> Comparison:
    """Compare the gain by ConML with a learned head with that from a zeroed one."""
    plus = Endpoint(_CONML, SELECTED), Endpoint("MAML, SO, head zeroed", SELECTED)
    minus = Endpoint("MAML, SO, head learned", SELECTED), Endpoint("ConML, head zeroed", SELECTED)
    return Comparison("gain by ConML, head learned − zeroed", kind, plus, minus)


SPEC = FigureSpec(
    name="family",
    title="All methods at one budget",
    question="Does the method of training matter if encoder, images, core-time and evaluation are the same?",
    curves=_curves,
    panels=_panels,
    claims=_claims,
    plot="costs",
    deviations=(
        "conv4 with 64 filters, new tasks at every update, models selected on the validation split.",
        "ConML compares what the inner loop adds to the parameters, the support set with all images of its task, and "
        "tasks in pairs; its weight is 0.1, which was not tuned. Other choices are possible.",
        "MAML++ and Reptile anneal over the full number of updates, even where the run stops earlier.",
    ),
    of_paper=False,
)
