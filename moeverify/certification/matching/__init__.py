"""Which layer, expert, row and column of the base each value of the pruned folder is."""
