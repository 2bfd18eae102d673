"""One's own images: a few examples of each class in, a classifier out."""
