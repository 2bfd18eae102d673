"""Published lists of class names, kept in the package."""

from importlib import resources


def split_list(name: str) -> tuple[str, ...]:
    """The lines of `splits/NAME.txt`: one class a line."""
    text = resources.files("metacontrast.data").joinpath("splits", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.split())
