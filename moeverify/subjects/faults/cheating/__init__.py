"""Pruners that reach for the court: they change what judges them, or hand over what does not compute."""
