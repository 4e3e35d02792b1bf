"""Experts that the example input does not reach."""
