"""Whether a training fits into memory, asked before it starts; the chunk of tasks that does."""

from dataclasses import replace

from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError
from metacontrast.memory import FILLED, MoreThanAllowed, free_bytes
from metacontrast.training.config import TrainConfig
from metacontrast.training.need import Need, need_of_update
from metacontrast.training.step import Resources


def fit_to_memory(
    config: TrainConfig, images: tuple[ClassImages, ClassImages], resources: Resources
) -> tuple[Resources, str]:
    """`resources` with a chunk that fits where the engine makes chunks and none was asked for; the need in words.

    Args:
        images: what is trained and tested on; on a GPU they will lie there too.

    Raises:
        InputError: it does not fit into what is free, or into `resources.memory`; says what to change.
    """
    room = _share_of_free_memory(resources) if resources.memory is None else resources.memory
    try:
        need = need_of_update(config, images, resources, room)
    except MoreThanAllowed:
        raise InputError(
            _refusal(f"the tasks of one worker take more than the {_readable(room or 0)} free", _smaller(config))
        ) from None
    if room is None:
        return resources, _in_words(need)
    if resources.are_batched(config) and resources.chunk is None:
        need = replace(need, parts=max(1, min(need.parts, need.fitting(int(FILLED * room)))))
        resources = replace(resources, chunk=need.parts)
    text = f"{_in_words(need)}, and {_readable(room)} are free"
    if need.total > room:
        raise InputError(_refusal(text, _advice(config, need, resources, room)))
    return resources, text


def _share_of_free_memory(resources: Resources) -> int | None:
    """What is free; processes that share a machine's memory get as much each, a GPU is one process's."""
    free = free_bytes(resources.device)
    return free if free is None or resources.device != "cpu" else free // resources.distributed.here


def _in_words(need: Need) -> str:
    return f"an update takes about {_readable(need.total)} of memory"


def _refusal(text: str, advice: str) -> str:
    return f"{text}: {advice}; or say with --memory how many GB may be taken"


def _advice(config: TrainConfig, need: Need, resources: Resources, room: int) -> str:
    """Which flag to change, and to what where that is known."""
    if fitting := need.fitting(room):
        return f"use {'--chunk' if resources.are_batched(config) else '--workers'} {fitting}"
    if need.fixed > need.part:
        return "lower --meta-batch or --filters"
    return _smaller(config)


def _smaller(config: TrainConfig) -> str:
    """What makes a task smaller."""
    first, steps = ("", "") if config.order == "first" else ("use --order first, or ", "--inner-steps, ")
    return f"{first}lower {steps}--queries, --shots, --ways or --filters"


def _readable(size: int) -> str:
    unit, name = next((each for each in ((1e9, "GB"), (1e6, "MB")) if size >= each[0]), (1e3, "KB"))
    return f"{size / unit:.1f} {name}"
