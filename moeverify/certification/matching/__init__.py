"""Matching: the layer, expert, row and column of the base that each value of the pruned folder comes from."""
