"""What lies in a checkpoint folder: headers, index, configuration, values."""
