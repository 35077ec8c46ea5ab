"""Gaussian processes that solve differential equations of high frequency (arXiv 2311.04465)."""
