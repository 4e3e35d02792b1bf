"""Right in memory, wrong in the file."""
