"""The argument parser of every command: errors are one line, help has a short and a full form, and examples."""

import argparse
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from metacontrast.errors import did_you_mean, not_one_of, one_line


class Parser(argparse.ArgumentParser):
    """An argument parser whose error is one line that suggests the nearest choice.

    Args:
        common: destinations of the flags that `--help` shows; `--help-all` shows the others too. Empty: `--help` shows
            all, and there is no `--help-all`.
        examples: what a command line does, and the line; printed below the flags.
        options: of `argparse.ArgumentParser`.
    """

    def __init__(self, *, common: Collection[str] = (), examples: Sequence[tuple[str, str]] = (), **options: Any):
        lines = [line for does, command in examples for line in (f"  # {does}", f"  {command}")]
        texts = {"formatter_class": _Formatter, "epilog": "\n".join(["examples:", *lines]) if lines else None}
        super().__init__(**texts | options, allow_abbrev=False)  # --lr is not --lr-schedule
        self.color = False  # the escape sequences of Python 3.14
        self.prepare: Callable[[Sequence[str]], None] = lambda words: None
        """Gets the command's words before help is printed, to set what depends on them."""
        self._common, self._words = common, ()
        if common:
            self.add_argument("--help-all", action=_HelpAll, nargs=0, help="show all flags and exit")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse as argparse does.

        `flags` has the flag of every option of the command and its verb, and `parser` is the one that read them.
        """
        self._words = tuple(args or ())
        found, rest = super().parse_known_args(args, namespace)
        own = {each.dest: each.option_strings[0] for each in self._actions if each.option_strings}
        found.flags = own | getattr(found, "flags", {})
        found.parser = getattr(found, "parser", self)
        return found, rest

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse as argparse does; what a command does not know is its own error, with the nearest flag."""
        found, rest = self.parse_known_args(args, namespace)
        parser = vars(found).pop("parser")  # processes are given what is found
        if rest:
            hint = _nearest_flags(rest[0].partition("=")[0], parser._option_string_actions)
            parser.error(f"unrecognized arguments: {' '.join(rest)}; {hint}".rstrip("; "))
        return found

    def format_help(self) -> str:
        """Format what `--help` prints: the common flags, or all where none are named."""
        shown = {*self._common, "help", "help_all"}
        hidden = [each for each in self._actions if each.option_strings and each.dest not in shown]
        texts = [each.help for each in hidden]
        try:
            for each in hidden if self._common else ():
                each.help = argparse.SUPPRESS
            return self.format_help_all()
        finally:
            for each, text in zip(hidden, texts, strict=True):
                each.help = text

    def format_help_all(self) -> str:
        """Format what `--help-all` prints: every flag."""
        self.prepare(self._words)
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Print the message and where to read more, exit with 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is no choice and suggest the nearest (Python 3.14: `suggest_on_error`)."""
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, not_one_of(value, action.choices))


def _nearest_flags(flag: str, known: Collection[str]) -> str:
    """Ask for the flags that a shortened one may stand for, or else for the one that is spelled most like it.

    >>> _nearest_flags("--lr", ["--inner-lr", "--outer-lr", "--filters"])
    'did you mean --inner-lr or --outer-lr?'
    """
    word = flag.removeprefix("--")
    if not flag.startswith("--") or not word:
        return ""
    alike = [each for each in known if any(part.startswith(word) for part in each.removeprefix("--").split("-"))]
    return f"did you mean {' or '.join(alike)}?" if 0 < len(alike) <= _MOST_FLAGS else did_you_mean(flag, known)


_MOST_FLAGS = 4


class _HelpAll(argparse.Action):
    """Prints every flag and ends the program."""

    def __call__(self, parser: Any, *_: Any) -> None:
        print(parser.format_help_all(), end="")
        parser.exit()


class _Formatter(argparse.HelpFormatter):
    """Wraps every line of a text by itself; indented lines stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n".join(each if each.startswith(" ") else fill(each, width, indent) for each in text.splitlines())
