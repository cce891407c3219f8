"""Training runs: configuration, the run folder, checkpoints, W&B."""
