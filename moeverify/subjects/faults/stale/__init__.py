"""A configuration entry or module attribute that still tells the old size."""
