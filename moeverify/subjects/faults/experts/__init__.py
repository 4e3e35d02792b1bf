"""Whole experts removed wrongly: another map for one tensor, broken groups, numbers that are not in step."""
