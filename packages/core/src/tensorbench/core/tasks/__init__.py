"""Small models to train, the same in every package that trains one."""
