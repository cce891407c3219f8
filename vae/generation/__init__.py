"""Faces from a trained model: samples, reconstructions, walks, edits, figures, export."""
