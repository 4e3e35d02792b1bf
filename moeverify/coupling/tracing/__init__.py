"""One forward of a model, recorded as relations between dimensions."""
