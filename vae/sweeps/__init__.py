"""Sweeps: many runs that differ in a few values, and what came of them."""
