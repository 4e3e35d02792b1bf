"""Off by one in concatenations and splits."""
