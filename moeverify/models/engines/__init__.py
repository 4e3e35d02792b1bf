"""Entries that serving engines read from a configuration, and the sizes that they take: one table for every room."""
