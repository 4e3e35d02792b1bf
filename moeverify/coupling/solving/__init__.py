"""From the relations of a trace to coupling classes and frozen dimensions."""
