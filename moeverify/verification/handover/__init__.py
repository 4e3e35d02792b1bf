"""Handover of a subject: data alone, from which the judge builds the pruned model again."""
