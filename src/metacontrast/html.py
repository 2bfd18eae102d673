"""Self-contained HTML pages: no network, no scripts, readable on a phone and on a desktop."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path


def render_page(title: str, body: Iterable[str]) -> str:
    """Render a whole page; `title` is plain text and `body` are pieces of HTML, made by the functions below."""
    return _TEMPLATE.format(title=html.escape(title), body="\n".join(body))


def paragraph(text: str) -> str:
    """Render plain text as a paragraph."""
    return f"<p>{html.escape(text)}</p>"


def heading(text: str, level: int = 2) -> str:
    """Render a heading of that level."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def figure(picture: Path | bytes, caption: str) -> str:
    """Embed a PNG picture, a file or its bytes, with its caption below."""
    data = base64.b64encode(picture if isinstance(picture, bytes) else picture.read_bytes()).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Render a table that scrolls by itself where it is wider than the screen."""
    top = "".join(f"<th>{html.escape(cell)}" for cell in head)
    lines = ("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{"".join(lines)}</table></div>'


def footer(command: str, digest: str) -> str:
    """Render the command and the digest of the data that made the page."""
    return f"<footer>Made by <code>{html.escape(command)}</code>. Test data digest <code>{digest}</code>.</footer>"


_TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
h1 {{ font-size: 1.5rem; line-height: 1.25 }}
h2 {{ font-size: 1.2rem; margin-top: 2.5rem }}
img {{ max-width: 100%; height: auto }}
figure {{ margin: 1.5rem 0 }}
figcaption, footer {{ color: #555; font-size: .9rem }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: .95rem }}
td, th {{ text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #ddd }}
code {{ overflow-wrap: anywhere }}
</style>
<h1>{title}</h1>
{body}
"""
