"""The report folder of an explained run: pictures as PNG and PDF, one JSON file, one page."""

import json
from collections.abc import Sequence
from pathlib import Path

from metacontrast import page
from metacontrast.explain.findings import Findings, as_json
from metacontrast.explain.pictures import Picture, draw_pictures, save_picture
from metacontrast.explain.text import facts, headline, setting
from metacontrast.files import write_text


def write_report(folder: Path, found: Findings, command: str) -> Path:
    """Write everything into `folder`; returns the page, `explain.html`.

    Args:
        command: what to type to get the same report.
    """
    pictures = list(draw_pictures(found))
    paths = [save_picture(picture, folder) for picture in pictures]
    write_text(folder / "explain.json", json.dumps({"command": command} | as_json(found), ensure_ascii=False) + "\n")
    report = folder / "explain.html"
    write_text(report, _page(found, pictures, paths, command))
    return report


def _page(found: Findings, pictures: Sequence[Picture], paths: Sequence[Path], command: str) -> str:
    body = [
        page.paragraph(headline(found)),
        page.paragraph(setting(found)),
        *(page.figure(path, picture.caption) for path, picture in zip(paths, pictures, strict=True)),
        page.heading("Every number"),
        page.table(("quantity", "value", "what it means"), facts(found)),
        page.footer(command, found.tasks.images.digest),
    ]
    return page.render_page("Why this model learns: its outer gradient, taken apart", body)
