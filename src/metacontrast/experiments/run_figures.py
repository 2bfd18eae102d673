"""From a list of figures to their runs, and whether the data for these are there."""

from collections.abc import Sequence
from pathlib import Path

from metacontrast.data.catalog import find_dataset
from metacontrast.errors import InputError
from metacontrast.experiments.catalog import FIGURES
from metacontrast.experiments.grid import PlannedRun, planned_runs
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import FigureSpec


def all_runs(figures: Sequence[FigureSpec], setting: Setting) -> list[PlannedRun]:
    """The runs behind the figures, each once, in the order of the figures."""
    return planned_runs(line for figure in figures for line in figure.lines(setting))


def check_data(runs: Sequence[PlannedRun], setting: Setting, data_root: Path | None) -> None:
    """Raise when a data set is not there, saying which figures can be made without it."""
    for name in sorted({run.config.dataset for run in runs}):
        spec, place = find_dataset(name, data_root)
        try:
            spec.reader.sources(place, next(run.config.read_options() for run in runs if run.config.dataset == name))
        except InputError as error:
            free = [figure.name for figure in FIGURES.values() if name not in _datasets(figure, setting)]
            raise InputError(
                f"{error}; without {name} there {'is' if len(free) == 1 else 'are'} {', '.join(free) or 'no figures'}, "
                "and with --scale smoke all"
            ) from error


def _datasets(figure: FigureSpec, setting: Setting) -> set[str]:
    return {line.config.dataset for line in figure.lines(setting)}
