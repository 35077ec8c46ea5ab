"""Small models that train in seconds: a character model, a regression, classifiers, a denoiser."""
