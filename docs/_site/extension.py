"""What Sphinx is taught for this site: navigation, tutorials, the two references, and formulas."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import reference
import tutorials
from metacontrast.cli.main import build_parser

_LISTED = re.compile(r"^- \[([^]]+)\]\(([^):#]+)\.\w+\)", re.MULTILINE)
_TAG = re.compile(r"\\tag\{([^}]*)\}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register everything below."""
    app.add_config_value("contents_pages", [], "env")
    app.connect("source-read", _add_navigation)
    app.connect("autodoc-process-docstring", _prepare_docstring, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", _skip_generated)
    app.add_source_suffix(".py", "tutorial")
    app.add_source_parser(TutorialParser)
    app.add_directive("public-names", PublicNames)
    app.add_directive("commands", Commands)
    app.add_html_math_renderer("mathml", (_inline_formula, None), (_formula, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _add_navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """The pages that a page of contents lists are its part of the navigation, in that order and under those names."""
    if name in app.config.contents_pages:
        entries = [f"{title} <{page}>" for title, page in _LISTED.findall(source[0])]
        source[0] += "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(entries) + "\n```\n"


def _prepare_docstring(app: Sphinx, kind: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Keep |S| from being a substitution; the help of a configuration's fields are its arguments."""
    lines[:] = [line.replace("|", r"\|") for line in lines]
    fields = dataclasses.fields(found) if kind == "class" and dataclasses.is_dataclass(found) else ()
    if helped := [field for field in fields if "help" in field.metadata]:
        lines += ["Args:", *(f"    {field.name}: {field.metadata['help']}" for field in helped), ""]


def _skip_generated(app: Sphinx, kind: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what no one wrote: fields of named tuples, and the requests that scikit-learn adds to estimators."""
    is_field = (inspect.getdoc(found) or "").startswith("Alias for field number")
    return True if is_field or name.endswith("_request") else None


class TutorialParser(MystParser):
    """Runs a tutorial and reads what comes of it as Markdown."""

    supported = ("tutorial",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Fill the document."""
        pictures = Path(document.settings.env.doctreedir) / "pictures"
        super().parse(tutorials.as_markdown(Path(document["source"]), pictures), document)


class PublicNames(SphinxDirective):
    """The documentation of the public names of one group or module."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """What the docstrings say."""
        return self.parse_text_to_nodes(reference.autodoc_page(reference.public_names()[self.arguments[0]]))


class Commands(SphinxDirective):
    """Every command and its options."""

    def run(self) -> list[nodes.Node]:
        """What the parsers say."""
        page = reference.command_page(build_parser())
        return self.parse_text_to_nodes(page, allow_section_headings=True)


def _inline_formula(translator: Any, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _formula(translator: Any, node: nodes.math_block) -> None:
    latex = node.astext()
    number = _TAG.search(latex)
    shown = f'<span class="eqno">({translator.encode(number[1])})</span>' if number else ""
    formula = _mathml(_TAG.sub("", latex), "block")
    translator.body.append(f'<div class="formula">{formula}{shown}</div>\n')
    raise nodes.SkipNode


def _mathml(latex: str, display: str) -> str:
    return convert(latex.replace(r"\mathbb{1}", "𝟙"), display=display)
