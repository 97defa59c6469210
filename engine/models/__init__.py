"""The reference model packages that ship with the engine; no code."""
