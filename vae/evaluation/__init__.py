"""A finished run → numbers and pictures."""
