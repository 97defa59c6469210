"""Numbers from models, and the policies that turn them into findings."""
