"""Differential equations met with tensors: neural operators, reduced models, solvers, and theory as computation."""
