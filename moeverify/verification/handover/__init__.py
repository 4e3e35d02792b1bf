"""What a subject hands over: data alone, from which the judge builds the pruned model again."""
