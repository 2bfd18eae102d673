"""The same outer gradient in other libraries, and in plain PyTorch.

These modules also run in environments without this package: they import one another by relative names, and nothing
else of it. Each has `prepare(job)`, which returns a function that computes the mean outer gradient of the job's tasks.
"""
