"""What the values in the configuration of a saved classifier or model must be, checked before anything is made of them.

A digest tells that a file was not damaged; it does not tell that its values make sense.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from metacontrast.classifier.candidates import FIT_METHODS, HEADS, MOST_STEPS
from metacontrast.classifier.inputs import from_json
from metacontrast.data.catalog import LARGEST_SIZE
from metacontrast.data.decode import Resample
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError
from metacontrast.training.sources import Source
from metacontrast.types import Inner, LossName, Order, Scope

Rule = tuple[Callable[[Any], bool], str]
LARGEST = 1e300


def check_values(facts: Any, rules: Mapping[str, Rule], where: Path) -> None:
    """Raise `InputError` for the first value that breaks its rule.

    Args:
        rules: what each value must be; names are such as `images.size` or, in all rows of a list, `compare.*.steps`.
    """
    for name, (fits, words) in rules.items():
        try:
            wrong = next((value for value in _values(facts, name.split(".")) if not fits(value)), _NOTHING)
        except (KeyError, TypeError) as error:
            raise InputError(f"{where} has no {name}: restore the file or fit again") from error
        if wrong is not _NOTHING:
            shown = repr(wrong)[:_SHOWN]
            raise InputError(f"{where}: {name} is {shown}, but it must be {words}: restore the file or fit again")


def stored_inner(values: Any, where: Path) -> Inner:
    """How to adapt, as a file says it."""
    check_values(values, INNER_RULES, where)
    try:
        return Inner(**values)
    except TypeError as error:
        raise InputError(
            f"{where} does not say how to adapt ({error}): it is damaged or from another program"
        ) from error


def stored_temperatures(facts: Mapping[str, Any], where: Path, usual: Mapping[str, float]) -> dict[str, float]:
    """The temperatures by head: those that a file says, the others as usual."""
    found = facts.get("temperatures", {})
    check_values({"temperatures": found}, {"temperatures": _TEMPERATURES}, where)
    return {**usual, **found}


def stored_source(facts: Any, where: Path) -> tuple[Source, ImageFormat, Inner]:
    """An encoder from elsewhere, its images and how it adapts, as a file says them."""
    check_values(facts, SOURCE, where)
    return (
        Source(facts["name"], facts["digest"], facts["can_build"]),
        stored_images(facts["images"], where),
        Inner(**facts["adaptation"]),
    )


def stored_images(values: Any, where: Path) -> ImageFormat:
    """What a model's images look like, as a file says it."""
    try:
        return ImageFormat(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})
    except TypeError as error:
        raise InputError(
            f"{where} does not describe images ({error}): it is damaged or from another program"
        ) from error


def _values(facts: Any, keys: Sequence[str]) -> Iterator[Any]:
    if not keys:
        yield facts
    elif keys[0] == "*":
        for each in facts if isinstance(facts, list) else [None]:
            yield from _values(each, keys[1:])
    else:
        yield from _values(facts[keys[0]], keys[1:])


def _whole(least: int, most: int = 2**53) -> Rule:
    return lambda value: type(value) is int and least <= value <= most, f"a whole number from {least} to {most}"


def _number(least: float, most: float = LARGEST) -> Rule:
    return lambda value: type(value) in (int, float) and least <= value <= most, f"a number from {least:g} to {most:g}"


def _one_of(*choices: Any) -> Rule:
    return lambda value: any(type(value) is type(each) and value == each for each in choices), (
        "one of " + ", ".join(map(str, choices))
    )


def _or_null(rule: Rule) -> Rule:
    return lambda value: value is None or rule[0](value), f"{rule[1]}, or null"


def _list_of(rule: Rule, least: int = 0) -> Rule:
    fits = rule[0]
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(fits, value)), (
        f"a list of {least} or more, each {rule[1]}"
    )


def _are_classes(value: Any) -> bool:
    try:
        labels = [from_json(label) for label in value]
        return len(labels) > 1 and None not in labels and len(set(labels)) == len(labels)
    except TypeError:
        return False


_NOTHING, _SHOWN = object(), 80
_ABOVE_0: Rule = (lambda value: type(value) in (int, float) and 0 < value <= LARGEST, "a finite number above 0")
_FLAG, _TEXT = _one_of(True, False), (lambda value: isinstance(value, str), "text")
_TEMPERATURES: Rule = (
    lambda value: isinstance(value, dict) and value.keys() <= {*FIT_METHODS} and all(map(_ABOVE_0[0], value.values())),
    f"heads ({', '.join(FIT_METHODS)}), each with a finite number above 0",
)
INNER_RULES: dict[str, Rule] = {
    "steps": _whole(0, MOST_STEPS),
    "lr": _ABOVE_0,
    "scope": _one_of(*get_args(Scope)),
    "order": _one_of(*get_args(Order)),
    "loss": _one_of(*get_args(LossName)),
}
IMAGES: dict[str, Rule] = {
    "images.channels": _one_of(1, 3),
    "images.size": _whole(1, LARGEST_SIZE),
    "images.resample": _one_of(*get_args(Resample)),
    "images.invert": _FLAG,
    "images.mean": _list_of(_number(-LARGEST), 1),
    "images.std": _list_of(_ABOVE_0, 1),
}
SOURCE: dict[str, Rule] = {
    "name": _TEXT,
    "digest": _TEXT,
    "can_build": _FLAG,
    "batch_stats": _one_of("running", "support"),
    "head": _one_of(*HEADS),
    **IMAGES,
    **{f"adaptation.{name}": rule for name, rule in INNER_RULES.items()},
}
CLASSIFIER_RULES: dict[str, Rule] = {
    "classes": (_are_classes, "two or more different labels"),
    "counts": _list_of(_whole(1), 2),
    "support": _list_of(_TEXT, 2),
    "parameters": (lambda value: isinstance(value, dict), "names with their values"),
    **IMAGES,
    "adaptation.lr": _number(0.0),
    "adaptation.steps": _whole(0, MOST_STEPS),
    "temperature": _ABOVE_0,
    "threshold": _or_null(_number(-LARGEST)),
    "held_out": _whole(0),
    "adaptation.method": _one_of(*FIT_METHODS),
    "adaptation.strength": _number(0.0),
    "true_probabilities": _list_of(_number(0.0, 1.0)),
    "compare.*.method": _one_of(*FIT_METHODS),
    "compare.*.steps": _whole(0),
    "compare.*.lr": _number(0.0),
    "compare.*.accuracy": _number(0.0, 1.0),
    "compare.*.difference": _number(-1.0, 1.0),
    "compare.*.ci95": _number(0.0),
    "compare.*.cross_entropy": _number(0.0),
    "compare.*.images": _whole(0),
    "compare.*.chosen": _FLAG,
    **{f"plan.inner.{name}": rule for name, rule in INNER_RULES.items()},
    "plan.automatic": _FLAG,
    "plan.head": _one_of(*HEADS),
    "plan.fallback": _one_of(*FIT_METHODS),
    "plan.folds": (lambda value: type(value) is int and value >= 0 and value != 1, "0, or a whole number from 2 on"),
    "plan.reject": _or_null((lambda value: type(value) is float and 0 < value < 1, "a number between 0 and 1")),
    "plan.random_head": _or_null(_whole(0)),
    "model.name": _TEXT,
}
RUN_RULES: dict[str, Rule] = {
    "model.updates": _whole(0),
    **{f"model.adaptation.{name}": rule for name, rule in INNER_RULES.items()},
}
