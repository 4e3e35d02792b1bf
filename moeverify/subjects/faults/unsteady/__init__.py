"""Results that depend on more than the arguments."""
