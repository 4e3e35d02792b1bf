"""Structure of the base: coupling classes and expert axes, from its configuration alone."""
