"""What serving engines read from a configuration, and which sizes they take: one table for every room."""
