"""Directions of attributes among the latents, and faces moved along them."""
