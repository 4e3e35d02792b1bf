"""Evidence that the checks rest on; imports nothing of the pruner."""
