"""The dependency graph on Torch-Pruning: groups found by a walk over the traced relations."""
