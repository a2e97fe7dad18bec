"""Training: one loop, its optimiser, its checkpoints, its guards."""
