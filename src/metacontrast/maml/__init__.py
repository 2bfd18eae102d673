"""The algorithm: `inner` adapts a model to a task, `outer` says how the starting point should move."""
