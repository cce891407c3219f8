"""Faces from a trained model: samples, reconstructions, interpolation, traversal, edits, export."""
