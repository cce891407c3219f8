"""The pages of docs/experiments: their tables and pictures, made from what was measured."""
