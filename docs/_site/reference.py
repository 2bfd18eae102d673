"""Text of the reference pages: the public names by group, and every command with its options."""

import argparse
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import metacontrast

_GROUP_OR_NAME = re.compile(r'^    (?:# (.+)|"(\w+)": "[\w.]+",)$', re.MULTILINE)


def public_names() -> dict[str, list[str]]:
    """The names of `metacontrast` by group, and those of its public modules by module.

    The groups are the comments in `metacontrast._PUBLIC`.
    """
    source = Path(metacontrast.__file__).read_text(encoding="utf-8")
    table = source.partition("\n_PUBLIC = {\n")[2].partition("\n}\n")[0]
    groups: dict[str, list[str]] = {}
    group: list[str] = []
    for heading, name in _GROUP_OR_NAME.findall(table):
        if heading:
            group = groups[heading] = []
        else:
            group.append(name)
    return groups | {module: _names_of_module(module) for module in metacontrast._MODULES}


def _names_of_module(name: str) -> list[str]:
    module = getattr(metacontrast, name)
    own = [each for each, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return [f"{name}.{each}" for each in getattr(module, "__all__", own) if not each.startswith("_")]


def autodoc_page(names: list[str]) -> str:
    """Autodoc's directives for these names of `metacontrast`, in reStructuredText."""
    return "\n".join(line for name in names for line in _autodoc(name))


def _autodoc(name: str) -> Iterator[str]:
    found = metacontrast
    for part in name.split("."):
        found = getattr(found, part)
    if inspect.isclass(found):
        kind = "autoexception" if issubclass(found, Exception) else "autoclass"
    else:
        kind = "autofunction" if callable(found) else "autodata"
    yield f".. {kind}:: metacontrast.{name}"
    yield from {"autoclass": ["   :members:"], "autodata": ["   :no-value:"]}.get(kind, [])
    yield ""


def subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command below `parser` as `(full name, parser)`, a command before those below it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command.prog, command
                yield from subcommands(command)


def command_page(parser: argparse.ArgumentParser) -> str:
    """Every command of `parser` in reStructuredText: what it does, and its options in their groups."""
    return "\n".join(line for name, command in subcommands(parser) for line in _command(name, command))


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from (name, "-" * len(name), "", _escaped(parser.description or ""), "")
    for group in parser._action_groups:
        actions = [each for each in group._group_actions if each.help != argparse.SUPPRESS and each.dest != "help"]
        if actions:
            yield from (f".. rubric:: {_escaped(group.title or '')}", "", _escaped(group.description or ""), "")
            for action in actions:
                yield from _argument(action, parser._get_formatter())
    if parser.epilog:
        yield from (".. code-block:: sh", "", *("   " + line for line in parser.epilog.splitlines()), "")


def _argument(action: argparse.Action, formatter: argparse.HelpFormatter) -> Iterator[str]:
    if isinstance(action, argparse._SubParsersAction):
        yield from ("One of " + ", ".join(f"``{each}``" for each in action.choices) + ", below.", "")
    else:
        yield f"``{formatter._format_action_invocation(action)}``"
        yield "   " + _escaped(formatter._expand_help(action))
        yield ""


def _escaped(text: str) -> str:
    return re.sub(r"([\\*`_|])", r"\\\1", " ".join(text.split()))
