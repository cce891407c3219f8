"""Errors, files, devices, signals and process groups, used by every other package."""
