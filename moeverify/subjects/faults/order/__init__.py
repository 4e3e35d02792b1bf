"""Kept channels in another order than before."""
