"""CelebA in its layouts, and what can be wrong with it."""
