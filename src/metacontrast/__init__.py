"""Few-shot meta-learning with MAML, and why it learns.

The names below are the public interface; modules under `metacontrast` may change without notice. Names are imported
when they are first asked for, so that the command line is there at once.
"""

from metacontrast.version import __version__ as __version__

TYPE_CHECKING = False  # without importing `typing`, so that `entry` soon has its way of taking Ctrl-C
if TYPE_CHECKING:
    from metacontrast import methods as methods, theory as theory
    from metacontrast.classifier.estimator import FewShotClassifier as FewShotClassifier
    from metacontrast.classifier.starting_point import StartingPoint as StartingPoint
    from metacontrast.classifier.support import images_from_dataset as images_from_dataset
    from metacontrast.data.augment import Augmentation as Augmentation
    from metacontrast.data.catalog import load_dataset as load_dataset
    from metacontrast.data.decode import ReadOptions as ReadOptions
    from metacontrast.data.episodes import BalancedBatches as BalancedBatches, EpisodeSampler as EpisodeSampler
    from metacontrast.data.image_format import ImageFormat as ImageFormat
    from metacontrast.data.images import ClassImages as ClassImages, images_from_arrays as images_from_arrays
    from metacontrast.data.regression import AngleTasks as AngleTasks, SineTasks as SineTasks
    from metacontrast.diagnostics.gradient import explain as explain
    from metacontrast.errors import InputError as InputError
    from metacontrast.maml.engine import Engine as Engine, meta_gradient as meta_gradient
    from metacontrast.maml.inner import adapt as adapt, learned_rates as learned_rates
    from metacontrast.maml.outer import Metrics as Metrics
    from metacontrast.model import encoders as encoders
    from metacontrast.model.head import zero_head as zero_head
    from metacontrast.model.model import Model as Model
    from metacontrast.training.config import TrainConfig as TrainConfig, with_fields as with_fields
    from metacontrast.training.evaluate import Evaluation as Evaluation, evaluate as evaluate
    from metacontrast.training.records import scalars as scalars
    from metacontrast.training.run import load_params as load_params, load_run as load_run
    from metacontrast.training.train import train as train
    from metacontrast.training.train_run import train_config as train_config
    from metacontrast.types import (
        Episode as Episode,
        Head as Head,
        Inner as Inner,
        Params as Params,
        from_tensors as from_tensors,
        map_params as map_params,
        to_tensors as to_tensors,
    )

_PUBLIC = {
    # Values
    "Episode": "types",
    "Head": "types",
    "Params": "types",
    "from_tensors": "types",
    "map_params": "types",
    "to_tensors": "types",
    "InputError": "errors",
    # Data
    "AngleTasks": "data.regression",
    "Augmentation": "data.augment",
    "BalancedBatches": "data.episodes",
    "ClassImages": "data.images",
    "EpisodeSampler": "data.episodes",
    "ReadOptions": "data.decode",
    "SineTasks": "data.regression",
    "images_from_arrays": "data.images",
    "images_from_dataset": "classifier.support",
    "load_dataset": "data.catalog",
    # Models
    "Model": "model.model",
    "zero_head": "model.head",
    # MAML
    "Engine": "maml.engine",
    "Inner": "types",
    "Metrics": "maml.outer",
    "adapt": "maml.inner",
    "learned_rates": "maml.inner",
    "meta_gradient": "maml.engine",
    # Training and evaluation
    "Evaluation": "training.evaluate",
    "TrainConfig": "training.config",
    "evaluate": "training.evaluate",
    "load_params": "training.run",
    "load_run": "training.run",
    "scalars": "training.records",
    "train": "training.train",
    "train_config": "training.train_run",
    "with_fields": "training.config",
    # Why it learns
    "explain": "diagnostics.gradient",
    # A classifier of your own images
    "FewShotClassifier": "classifier.estimator",
    "ImageFormat": "data.image_format",
    "StartingPoint": "classifier.starting_point",
}
_MODULES = {"encoders": "model.encoders", "methods": "methods", "theory": "theory"}

__all__ = sorted(["__version__", *_PUBLIC, *_MODULES])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"metacontrast.{_MODULES[name]}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'metacontrast' has no attribute {name!r}")
    return getattr(importlib.import_module(f"metacontrast.{_PUBLIC[name]}"), name)


def __dir__():
    return __all__
