"""Small networks, trained from a seed in seconds, that experiments quantise."""
