"""Loops over voxels that NumPy would walk several times, compiled."""
