"""The figures by name: one module per figure of the paper, or per pair that belongs together."""

from metacontrast.errors import InputError, did_you_mean
from metacontrast.experiments.figures import (
    answers_at_test,
    channel_memorization,
    family,
    feature_similarity,
    first_and_second_order,
    illustrations,
    initialization_and_zeroing,
    inner_steps,
    linear_representations,
    reformulation,
    steps_at_test,
    unpublished,
    zeroing_at_test,
)
from metacontrast.experiments.spec import AuthorsTest, FigureSpec

FIGURES: dict[str, FigureSpec] = {
    spec.name: spec
    for spec in (
        initialization_and_zeroing.SPEC,
        feature_similarity.SPEC,
        zeroing_at_test.SPEC,
        inner_steps.SPEC,
        first_and_second_order.SPEC,
        reformulation.REFORMULATION,
        reformulation.DROPPED_TERMS,
        channel_memorization.SPEC,
        unpublished.SECOND_ORDER_ONE_SHOT,
        unpublished.TWENTY_FIVE_SHOTS,
        illustrations.COMPARING_FEATURES,
        illustrations.CROWDED_DIRECTIONS,
        family.SPEC,
        steps_at_test.SPEC,
        answers_at_test.SPEC,
        linear_representations.SPEC,
    )
}


AUTHORS_TESTS: list[AuthorsTest] = [spec.authors_test for spec in FIGURES.values() if spec.authors_test is not None]
"""What is measured of the authors' models beyond all their checkpoints."""


def find_figures(name: str) -> list[FigureSpec]:
    """Return the figure of that name, or `all` that the paper has."""
    if name == "all":
        return [figure for figure in FIGURES.values() if figure.of_paper]
    if name not in FIGURES:
        known = ", ".join(FIGURES)
        raise InputError(f"unknown figure {name!r}: {did_you_mean(name, ('all', *FIGURES))}choose one of all, {known}")
    return [FIGURES[name]]
