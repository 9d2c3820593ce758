"""The published configuration with seeded random weights."""
