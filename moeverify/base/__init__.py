"""The foundation of all other rooms: files, documents, imports, text, versions. Knows nothing of models."""
