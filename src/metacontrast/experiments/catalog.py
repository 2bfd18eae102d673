"""All figures by name."""

from metacontrast.errors import InputError, did_you_mean
from metacontrast.experiments.questions import (
    channel_memorization,
    comparing_features,
    crowded_directions,
    dropping_terms,
    exact_reformulation,
    feature_similarity,
    first_and_second_order,
    initialization_and_zeroing,
    inner_steps,
    second_order_one_shot,
    twenty_five_shots,
    zeroing_at_test,
)
from metacontrast.experiments.spec import FigureSpec

_MODULES = (
    initialization_and_zeroing,
    feature_similarity,
    zeroing_at_test,
    inner_steps,
    first_and_second_order,
    exact_reformulation,
    dropping_terms,
    channel_memorization,
    second_order_one_shot,
    twenty_five_shots,
    comparing_features,
    crowded_directions,
)
FIGURES: dict[str, FigureSpec] = {module.SPEC.name: module.SPEC for module in _MODULES}


def find_figures(name: str) -> list[FigureSpec]:
    """The figure of that name, or `all` of them."""
    if name == "all":
        return list(FIGURES.values())
    if name not in FIGURES:
        raise InputError(
            f"no figure {name!r}: {did_you_mean(name, ('all', *FIGURES))}there are all, {', '.join(FIGURES)}"
        )
    return [FIGURES[name]]
