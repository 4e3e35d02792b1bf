"""Tensors that are no longer what they were: Parameter, buffer, tied, trainable."""
