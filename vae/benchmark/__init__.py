"""`vae benchmark`: measure the speed of training, side by side with a plain implementation."""
