"""What pruning would give, from a configuration alone."""
