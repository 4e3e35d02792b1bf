"""Faults of pruners that take folders: what they write to disk is wrong, or more than a loader takes."""
