"""The structure of a model as plain data and as pictures: layers, experts, coupling classes."""
