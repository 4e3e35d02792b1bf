"""Other engines: each runs in a process and an environment of its own, and answers prompts of token ids."""
