"""Datasets, the order of their samples, and loaders. Imports nothing: option modules lie here, without torch."""
