"""Coupling: channels of a model that can only be removed together."""
