"""Faults of stale sizes: a configuration entry or module attribute still has the old size."""
