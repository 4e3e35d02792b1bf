"""Pruning from folder to folder, and plans as documents."""
