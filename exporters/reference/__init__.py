"""Reference models and the phantoms they are trained on."""
