"""Checkpoints that are made here: the full-size random ones, and the trained demo one."""
