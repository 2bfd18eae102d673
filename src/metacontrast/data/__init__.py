"""Files to images by class to tasks: readers of the few-shot data sets and the samplers of episodes."""

from metacontrast.data.catalog import load_dataset as load_dataset
from metacontrast.data.decode import ReadOptions as ReadOptions
from metacontrast.data.images import ClassImages as ClassImages
