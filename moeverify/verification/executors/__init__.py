"""Executors that carry out the cases of a run: one file each, and entry points for those of other packages."""
