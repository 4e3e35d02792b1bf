"""Which channels of a model can only be removed together."""
