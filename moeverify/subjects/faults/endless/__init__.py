"""A pruner that does not come back, or comes back by an exception."""
