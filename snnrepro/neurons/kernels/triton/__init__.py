"""The LIF layer on GPUs."""
