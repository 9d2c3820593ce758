"""The command line, the main job, and what makes checkpoints."""
