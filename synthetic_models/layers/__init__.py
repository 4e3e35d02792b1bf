"""Parts of a synthetic model. No forward has a size written into it that pruning changes."""
