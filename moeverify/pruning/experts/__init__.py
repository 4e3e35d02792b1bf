"""Whole experts: dimensions that count them, legal numbers, the experts that stay, and the plan for the rest."""
