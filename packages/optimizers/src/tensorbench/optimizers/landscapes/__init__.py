"""Functions with known minima, for tests and studies of optimizers."""
