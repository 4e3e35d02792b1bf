"""Limits of asking engines; imports nothing, so that commands can name them in their help."""

# Seconds that one engine may take for all folders: environments are slow to import, and compile on first use.
SECONDS = 900.0
