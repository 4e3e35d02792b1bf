"""Preparation, rehearsal and execution of a pruning step."""
