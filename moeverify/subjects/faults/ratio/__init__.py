"""Too little, too much, or nothing was pruned."""
