"""What everything else stands on: files, imports, text, versions. Knows nothing of models."""
