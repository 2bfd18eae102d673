"""The demonstration: the same training with a learned and a zeroed head, and a report that shows the difference."""

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metacontrast.data.images import ClassImages
from metacontrast.files import write_text
from metacontrast.maml.inner import adapt
from metacontrast.plots.curves import learning_curves, select_curve
from metacontrast.plots.episodes import EpisodePicture, draw_episodes
from metacontrast.plots.style import save_figure
from metacontrast.training.config import TrainConfig
from metacontrast.training.evaluate import Row, as_table
from metacontrast.training.records import read_records
from metacontrast.training.run import TrainedRun

SHOWN_QUERIES = 5


@dataclass(frozen=True)
class DemoResult:
    """One of the two trainings.

    Args:
        label: what it is called.
        color: its colour in pictures.
        folder: its run directory.
        run: the trained model.
        rows: its evaluation.
    """

    label: str
    color: str
    folder: Path
    run: TrainedRun
    rows: Sequence[Row]


def demo_configs(base: TrainConfig) -> dict[str, TrainConfig]:
    """Learned head against zeroed head, everything else the same."""
    return {
        "learned head": replace(base, head="learned", head_init_scale=1.0),
        "zeroing trick": replace(base, head="zeroed"),
    }


def write_report(folder: Path, results: Sequence[DemoResult], images: ClassImages, command: str) -> Path:
    """Pictures, `results.json` and one self-contained `report.html` in `folder`; returns the page."""
    pictures = [
        save_figure(_curves(results), folder / "learning-curves.png"),
        save_figure(_episodes(results, images), folder / "episodes.png"),
    ]
    facts = {"command": command, "results": {r.label: [asdict(row) for row in r.rows] for r in results}}
    write_text(folder / "results.json", json.dumps(facts, indent=1) + "\n")
    page = folder / "report.html"
    write_text(page, _page(results, pictures, images, command))
    return page


def results_table(results: Sequence[DemoResult]) -> str:
    """Both evaluations as text."""
    return "\n\n".join(f"{result.label}\n{as_table(result.rows)}" for result in results)


def _curves(results: Sequence[DemoResult]) -> Any:
    config = results[0].run.config
    wanted = {"method": "maml", "head": "zeroed", "steps": config.eval_steps[0]}
    curves = [select_curve(read_records(r.folder / "records.jsonl"), wanted, r.label, r.color) for r in results]
    title = (
        f"{config.dataset}, {config.ways}-way {config.shots}-shot, head zeroed at test, {wanted['steps']} inner step"
    )
    return learning_curves(curves, title, chance=1 / config.ways)


def _episodes(results: Sequence[DemoResult], images: ClassImages) -> Any:
    """The first two test tasks, predicted by the model of the last result."""
    return draw_episodes([_episode_picture(results[-1], images, index) for index in (0, 1)])


def _episode_picture(result: DemoResult, images: ClassImages, index: int) -> EpisodePicture:
    config, model, params = result.run.config, result.run.model, result.run.params
    tasks = config.test_tasks(images)
    episode, rows = tasks[index], tasks.rows(index)
    inner = replace(config.inner(), steps=config.eval_steps[0], order="first")
    adapted = adapt(model, params, episode.support_x, episode.support_y, inner)
    with torch.no_grad():
        predicted = model.query_logits(adapted, episode.support_x, episode.query_x).argmax(1).numpy()
    right = 100 * (predicted == rows.query_y).mean()
    shown = slice(0, SHOWN_QUERIES)
    return EpisodePicture(
        f"test task {index}: {right:.0f} % right of {len(predicted)} queries, {result.label}",
        _by_way(images, rows.support, config.ways),
        _by_way(images, rows.query, config.ways)[:, shown],
        predicted.reshape(config.ways, -1)[:, shown],
        [str(way) for way in range(config.ways)],
    )


def _by_way(images: ClassImages, rows: np.ndarray, ways: int) -> np.ndarray:
    """Images `(way, image, height, width)`, with a last axis of 3 for colour."""
    pixels = images.images[torch.from_numpy(rows)].movedim(1, -1).numpy()
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return pixels.reshape(ways, -1, *pixels.shape[1:])


def _page(results: Sequence[DemoResult], pictures: Sequence[Path], images: ClassImages, command: str) -> str:
    config = results[0].run.config
    captions = (
        "Test accuracy during training. The two runs differ in one thing: whether the linear head is set to zero "
        "after every outer update.",
        "Two test tasks. Green frame: right. Red frame: wrong, with the class that was predicted.",
    )
    figures = "".join(
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{_base64(path)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for path, caption in zip(pictures, captions, strict=True)
    )
    tables = "".join(f"<h3>{html.escape(r.label)}</h3>{_html_table(r.rows)}" for r in results)
    return _TEMPLATE.format(
        title=f"MAML with and without the zeroing trick: {html.escape(config.dataset)}",
        setting=html.escape(
            f"{config.ways}-way {config.shots}-shot, {config.order}-order MAML, {config.updates} updates of "
            f"{config.meta_batch} tasks, {config.inner_steps} inner steps of size {config.inner_lr}, "
            f"seed {config.seed}; tested on {results[0].rows[0].episodes} tasks of {images.name} "
            f"({len(images)} classes never trained on)"
        ),
        figures=figures,
        tables=tables,
        command=html.escape(command),
        data=html.escape(images.digest),
    )


def _html_table(rows: Sequence[Row]) -> str:
    head = "<tr><th>method<th>head at test<th>inner steps<th>accuracy<th>statistics</tr>"
    lines = (
        f"<tr><td>{r.method}<td>{r.head}<td>{r.steps}<td>{100 * r.accuracy:.2f} ± {100 * r.ci95:.2f} %<td>{r.norm}</tr>"
        for r in rows
    )
    return f"<table>{head}{''.join(lines)}</table>"


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


_TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
h1 {{ font-size: 1.5rem; line-height: 1.25 }}
img {{ max-width: 100%; height: auto }}
figure {{ margin: 1.5rem 0 }}
figcaption, footer {{ color: #555; font-size: .9rem }}
table {{ border-collapse: collapse; font-size: .95rem }}
td, th {{ text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #ddd }}
code {{ overflow-wrap: anywhere }}
</style>
<h1>{title}</h1>
<p>{setting}.</p>
{figures}
<h2>Accuracy at the end</h2>
{tables}
<p>Intervals are 95 % over test tasks; they do not cover the choice of the training seed. <em>nearest-mean</em>
classifies by the nearest class mean on the same features, without adaptation. <em>transductive</em>: the query images
of a task normalize one another.</p>
<footer>Made by <code>{command}</code>. Test data digest <code>{data}</code>.</footer>
"""
