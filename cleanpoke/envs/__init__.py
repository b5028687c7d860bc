"""The worlds that the scripts train in."""
