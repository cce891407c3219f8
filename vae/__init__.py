"""MiniFaceApp: β-VAEs on faces. Usable from a notebook without Hydra."""
