"""New faces from a finished run: samples, interpolations, traversals, reconstructions."""
