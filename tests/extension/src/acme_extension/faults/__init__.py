"""Broken pruners."""
