"""Training rules: descent in a chosen norm, scaling with width and batch, curvature, manifolds."""
