"""Measurements of a model's outer gradient on tasks: where the algorithm meets its theory."""
