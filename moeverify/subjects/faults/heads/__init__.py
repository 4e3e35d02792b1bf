"""Attention heads cut across, or queries, keys, values and outputs cut at different heads."""
