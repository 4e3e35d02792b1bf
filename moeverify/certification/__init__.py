"""Certification: was this checkpoint folder pruned correctly from that one? Imports nothing of ``pruning``."""
