"""Training: optimiser and schedule, checkpoints, and the alignment of frozen features."""
