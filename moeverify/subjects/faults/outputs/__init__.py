"""Faults of outputs: one of several is wrong."""
