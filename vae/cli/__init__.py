"""The commands of `vae`: options and printed results.

Commands import heavy modules when they run, since `vae --help` imports every command.
"""
