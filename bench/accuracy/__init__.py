"""Proof of the models and rules: the papers' tables and figures, remade from predictions."""
