"""Couplings of every zoo type compared with masked models, twins and configurations."""
