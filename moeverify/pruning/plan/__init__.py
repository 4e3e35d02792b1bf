"""A pruning plan (which positions stay, which entries change) and its application to weights."""
