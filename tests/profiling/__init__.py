"""Scripts that measure; run by hand, never by pytest."""
