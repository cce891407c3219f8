"""Errors, files, devices, signals and the processes of a run: used by every other package."""
