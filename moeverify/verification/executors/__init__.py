"""Where the cases of a run are carried out: one file an executor, and entry points for those of other packages."""
