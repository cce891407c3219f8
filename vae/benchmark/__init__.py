"""What makes training fast, measured side by side: `vae benchmark`."""
