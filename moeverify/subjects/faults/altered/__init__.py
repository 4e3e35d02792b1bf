"""Something that should stay as it was did not."""
