"""A wider checkpoint with outliers that computes what a small one computes: ``python -m scripts.checkpoints.wide``."""
