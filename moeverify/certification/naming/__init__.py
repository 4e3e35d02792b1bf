"""One naming for both folders: that of the model which plain transformers builds from the configuration."""
