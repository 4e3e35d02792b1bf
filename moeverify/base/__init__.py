"""What everything else stands on: files, documents, imports, text, versions. Knows nothing of models."""
