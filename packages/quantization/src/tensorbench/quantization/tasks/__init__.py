"""Small models with their loss, batches and evaluation, on which training recipes are compared."""
