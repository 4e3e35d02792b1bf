"""Faults of order: kept channels in another order than before."""
