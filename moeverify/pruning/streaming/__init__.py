"""Pruning from folder to folder without holding the model: scores, plan, cut and write, tensor by tensor."""
