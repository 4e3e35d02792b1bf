"""Leaks across experts: what belongs to one routed expert is pruned by another's."""
