"""The commands of `vae`, one a file: their options, and what they print.

Nothing heavy is imported before it is needed, as `vae --help` passes through all of them.
"""
