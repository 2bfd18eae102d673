"""Tutorials are Python files in cells, as editors open them: read, run and written as Markdown with their output.

A line that starts with `# %%` begins a cell; after `# %% [markdown]` its text stands in comments.
"""

import ast
import contextlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

_CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)


class Cell(NamedTuple):
    """A piece of a tutorial; `line` is where its source begins, counted from 1."""

    is_code: bool
    source: str
    line: int


class Output(NamedTuple):
    """What running a cell printed, and the figures that it left open, as PNG files."""

    text: str
    pictures: list[bytes]


def cells(source: str) -> list[Cell]:
    """The cells of a tutorial. What stands before the first one is not part of it."""
    found = list(_CELL.finditer(source))
    ends = [each.start() for each in found[1:]] + [len(source)]
    return [
        Cell("markdown" not in each[1], source[each.end() : end].rstrip("\n"), source[: each.end()].count("\n") + 1)
        for each, end in zip(found, ends, strict=True)
    ]


def run(source: str, filename: str) -> tuple[list[Output], dict[str, Any]]:
    """Run the code cells in one namespace in an empty folder; their outputs, and the namespace."""
    names: dict[str, Any] = {"__name__": "tutorial"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), plt.rc_context({"backend": "agg"}):
        outputs = [_run_cell(cell, filename, names) for cell in cells(source) if cell.is_code]
    return outputs, names


def _run_cell(cell: Cell, filename: str, names: dict[str, Any]) -> Output:
    """As a notebook does: a figure that is the value of the last line is shown too."""
    tree = ast.parse("\n" * (cell.line - 1) + cell.source, filename)
    last = [ast.Expression(tree.body.pop().value)] if isinstance(tree.body[-1], ast.Expr) else []
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, filename, "exec"), names)
        values = [eval(compile(expression, filename, "eval"), names) for expression in last]
    figures = [plt.figure(number) for number in plt.get_fignums()]
    pictures = [_png(each) for each in [*figures, *values] if isinstance(each, Figure)]
    plt.close("all")
    return Output(printed.getvalue(), pictures)


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, bbox_inches="tight")
    return picture.getvalue()


def as_markdown(path: Path, pictures: Path) -> str:
    """Run the tutorial; its text, code and output, with the figures written to the folder `pictures`."""
    source = path.read_text(encoding="utf-8")
    outputs = iter(run(source, str(path))[0])
    pieces: list[str] = []
    for number, cell in enumerate(cells(source)):
        if cell.is_code:
            pieces.append(f"```python\n{cell.source}\n```")
            pieces += _shown(next(outputs), pictures / f"{path.stem}-{number}", path)
        else:
            pieces.append(re.sub(r"^# ?", "", cell.source, flags=re.MULTILINE))
    pieces.append(f"This page is a Python file, {{download}}`{path.name}`: run it as it is, or by cells in an editor.")
    return "\n\n".join(pieces)


def _shown(output: Output, stem: Path, path: Path) -> Iterator[str]:
    if output.text:
        yield f"```text\n{output.text.rstrip()}\n```"
    for number, picture in enumerate(output.pictures):
        file = stem.with_name(f"{stem.name}-{number}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture)
        yield f"![What the cell above draws]({Path(os.path.relpath(file, path.parent)).as_posix()})"
