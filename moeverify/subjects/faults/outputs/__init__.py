"""What is wrong with one of several outputs."""
