"""Training with four-bit floating-point operands: gradients, stabilisers, recipes, their cost, and a simulator."""
