"""Sweeps: runs that differ in a few values, their study, comparison and reports."""
