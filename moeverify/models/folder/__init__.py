"""Checkpoint folders and how a model is read from one: headers, index, values, and naming."""
