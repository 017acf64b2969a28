"""Other stream processors on the same work, each in an environment of its own."""
