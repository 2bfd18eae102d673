"""Your own images: from a few examples of each class to a classifier."""
