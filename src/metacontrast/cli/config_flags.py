"""One flag for every field of `TrainConfig`; only flags that are given override the recipe."""

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from metacontrast.cli.parser import Parser
from metacontrast.cli.shared import images_folder, step_list, word_list
from metacontrast.data.folder import is_coloured
from metacontrast.errors import InputError, did_you_mean, not_one_of
from metacontrast.fields import field_types
from metacontrast.training.config import TrainConfig, with_fields
from metacontrast.training.recipes import RECIPES, recipe
from metacontrast.training.run import read_config
from metacontrast.training.start import with_start
from metacontrast.training.sweep import VARIED

_GROUPS = {
    "dataset": "data",
    "ways": "task",
    "encoder": "model",
    "order": "inner loop",
    "method": "outer loop",
    "eval_every": "evaluation",
    "checkpoint_every": "run",
}
"""The groups of flags by their first field; the fields that follow it in `TrainConfig` belong to the same group."""
COMMON = (
    *("recipe", "dataset", "ways", "shots", "queries", "encoder", "head", "norm"),
    *("order", "inner_steps", "inner_lr", "inner_scope", "method", "outer_lr", "meta_batch", "updates"),
    *("eval_every", "eval_steps", "seed", "out", "resume", "data_root", "device", "json"),
)
"""The flags that the short help of a training shows, by destination."""
_SIZES = ("ways", "shots")
"""Fields whose flag may have a range; its lower end is the field `least_...`."""


def add_config_flags(parser: Parser, **own: Any) -> dict[str, argparse._ArgumentGroup]:
    """Add `--recipe` and one flag per field, in groups; return the groups by title.

    Args:
        own: the command's own defaults.
    """
    names = ", ".join(RECIPES)
    text = f"named configuration; the defaults below are those of %(shown)s. Names: {names}"
    parser.add_argument("--recipe", metavar="NAME", help=text)
    groups: dict[str, argparse._ArgumentGroup] = {}
    group: argparse._ActionsContainer = parser
    for field in dataclasses.fields(TrainConfig):
        if field.name in _GROUPS:
            title = _GROUPS[field.name]
            group = groups[title] = parser.add_argument_group(title)
        _add_flag(group, field, " (default: %(shown)s)")
    parser.prepare = partial(_show_defaults, parser, own)
    parser.prepare(())
    return groups


def _show_defaults(parser: Parser, own: Mapping[str, Any], words: Sequence[str]) -> None:
    """Put the defaults into the help that hold for these words: those of the recipe, data set and method they name."""
    chooser = Parser(add_help=False, exit_on_error=False)
    chooser.add_argument("--recipe")
    add_some_config_flags(chooser, ["dataset", "shots", "method"])
    try:
        args, _ = chooser.parse_known_args(words)
    except argparse.ArgumentError:
        args = argparse.Namespace(recipe=None)
    given = given_fields(args)
    name = args.recipe or _default_recipe(given.get("dataset", "glyphs"), given.get("shots", 1))
    config = with_fields(recipe(name), **{field: value for field, value in given.items() if field == "method"})
    texts = {field: as_text(value) for field, value in (dataclasses.asdict(config) | dict(own)).items()}
    for action in parser._actions:
        action.shown = (texts | {"recipe": name}).get(action.dest)  # type: ignore[attr-defined]


def add_some_config_flags(parser: argparse.ArgumentParser, names: Collection[str]) -> None:
    """Add a flag for each of these fields."""
    for field in dataclasses.fields(TrainConfig):
        if field.name in names:
            _add_flag(parser, field)


def given_fields(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields that were given as flags; a range is two of them."""
    found = {name: value for name, value in vars(args).items() if name in field_types(TrainConfig)}
    for name in _SIZES:
        if isinstance(found.get(name), tuple):
            found[f"least_{name}"], found[name] = found[name]
    return found


def config_from_flags(args: argparse.Namespace) -> TrainConfig:
    """Build the configuration: the recipe's, with the given flags put over it.

    With `--resume` and neither `--recipe` nor a new run, the run's own configuration takes the recipe's place.
    """
    started = read_config(args.out) if args.resume and not args.recipe else None
    return config_from_fields(args.recipe, {}, given_fields(args), started)


def config_from_fields(
    name: str | None, defaults: Mapping[str, Any], given: Mapping[str, Any], started: TrainConfig | None = None
) -> TrainConfig:
    """Build the configuration from a recipe's name and the fields that are given.

    Without a name it is the released protocol of the data set for the nearest published number of shots, and for a
    folder with coloured images the recipe `photos`.

    Args:
        defaults: fields in place of the recipe's.
        started: takes the recipe's place.
    """
    base = started or recipe(name or _default_recipe(given.get("dataset", "glyphs"), given.get("shots", 1)))
    one_size = {f"least_{name}": None for name in _SIZES if name in given}  # unless a range is given
    fields = {**defaults, **one_size, **given}
    start, weights = (fields.pop(name, getattr(base, name)) for name in ("start", "weights"))
    config = with_fields(base, **fields)
    if start is None or (start, weights) == (base.start, base.weights):
        return dataclasses.replace(config, start=start, weights=weights)
    return with_start(config, start, weights, given)


def _add_flag(parser: argparse._ActionsContainer, field: dataclasses.Field[Any], default: str = "") -> None:
    hint = field_types(TrainConfig)[field.name]
    help_text = field.metadata["help"].replace("%", "%%") + default
    flags = ["--" + field.name.replace("_", "-"), *_OLDER_FLAGS.get(field.name, ())]
    parsing = {"type": _one_size_or_range, "metavar": "N"} if field.name in _SIZES else _parsing(hint)
    parser.add_argument(*flags, dest=field.name, default=argparse.SUPPRESS, help=help_text, **parsing)


_OLDER_FLAGS = {"method": ("--objective",)}


def _default_recipe(dataset: str, shots: int) -> str:
    published = f"{dataset}-5w{1 if shots < 3 else 5}s-released"
    if published in RECIPES:
        return published
    try:
        return "photos" if any(map(is_coloured, images_folder(dataset))) else "glyphs"
    except InputError:
        return "glyphs"  # reading the folder says what is wrong with it


def field_and_values(text: str) -> tuple[str, list[Any]]:
    """Parse what `--vary` takes: a field's name, and the values that its variants have."""
    flag, equals, values = text.partition("=")
    name = flag.removeprefix("--").replace("-", "_")
    name = next((new for new, older in _OLDER_FLAGS.items() if f"--{name}" in older), name)
    if name == "seed":
        raise argparse.ArgumentTypeError(f"{text!r}: seeds are not varied, give --seeds N and --seed for the first")
    if name not in VARIED or not equals:
        fields = [each.replace("_", "-") for each in VARIED]
        hint = "" if name in VARIED else did_you_mean(name, fields)
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE,VALUE: {hint}fields are {', '.join(fields)}")
    found = [_read_as_flag(name, flag, each) for each in values.split(",")]
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} names a value twice")
    return name, found


def _read_as_flag(name: str, flag: str, text: str) -> Any:
    """Parse the text as the field's own flag would."""
    truth = {"true": True, "false": False}
    if field_types(TrainConfig)[name] is bool:
        if text not in truth:
            raise argparse.ArgumentTypeError(f"{flag} cannot be {text!r}: choose true or false")
        return truth[text]
    parser = Parser(add_help=False, exit_on_error=False)
    add_some_config_flags(parser, [name])
    try:
        found = vars(parser.parse_args([f"--{name.replace('_', '-')}={text}"]))
    except argparse.ArgumentError as error:
        raise argparse.ArgumentTypeError(f"{flag} cannot be {text!r}: {error.message}") from None
    if name in _SIZES and isinstance(found[name], tuple):
        raise argparse.ArgumentTypeError(f"{flag} cannot be {text!r}: a variant has one size, not a range")
    return found[name]


def _parsing(hint: Any) -> dict[str, Any]:
    """Return argparse's options for values of a type."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = _parsing(next(part for part in typing.get_args(hint) if part is not type(None)))
        choices = inner.pop("choices", None)
        return inner | {"type": _or_none(inner.get("type", str), choices)}
    if typing.get_origin(hint) is Literal:
        return {"choices": typing.get_args(hint)}
    if typing.get_origin(hint) is tuple and typing.get_args(hint)[0] is int:
        return {"type": step_list, "metavar": "N,N"}
    if typing.get_origin(hint) is tuple:
        return {"type": word_list, "metavar": "NAME,NAME"}
    return {"type": hint, "metavar": {int: "N", float: "X"}.get(hint, "NAME")}


def _one_size_or_range(text: str) -> int | tuple[int, int]:
    """Parse a number, or the range from which every update draws one, such as `5-20`."""
    least, dash, most = text.partition("-")
    if not (most if dash else least).isdecimal() or not least.isdecimal():
        raise argparse.ArgumentTypeError(f"invalid value {text!r}: give a whole number, or a range such as 5-20")
    if dash and int(least) > int(most):
        raise argparse.ArgumentTypeError(f"invalid range {text!r}: give the smaller number first")
    return (int(least), int(most)) if dash else int(least)


def _or_none(read: Callable[[str], Any], choices: tuple[str, ...] | None) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        if text == "none":
            return None
        if choices and text not in choices:
            raise argparse.ArgumentTypeError(not_one_of(text, ("none", *choices)))
        return read(text)

    parse.__name__ = "value"
    return parse


def as_text(value: Any) -> str:
    """Format a value as its flag takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
