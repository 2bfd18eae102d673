"""Meta-training and evaluation: configuration in, records and checkpoints out."""
