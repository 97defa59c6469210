"""How series come in."""
