"""A model, ready to run: its manifest, and the sessions that can execute it."""
