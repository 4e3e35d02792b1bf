"""Numbers that an architecture derives from a size, and the weights that absorb their change."""
