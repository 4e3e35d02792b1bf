"""Folders that transformers runs and engines do not serve: numbers, groups and tables that it is lenient about."""
