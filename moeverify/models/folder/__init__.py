"""What lies in a checkpoint folder, and how a model is read from it: headers, index, values, and naming."""
