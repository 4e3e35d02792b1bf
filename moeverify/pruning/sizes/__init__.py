"""Sizes that pruning would give, from a configuration alone."""
