"""Adaptive optimizers in the limit of infinite width: which scalings learn features, and what the limits compute."""
