"""Tests of CelebA: its layouts and its failures."""
