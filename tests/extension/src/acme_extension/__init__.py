"""A package that adds to moeverify from outside."""
