"""Statistics of agreement: numbers against reference values, as the papers of the field print them."""
