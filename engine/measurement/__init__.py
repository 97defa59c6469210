"""Numbers from voxels: attenuation, geometry checks, quality flags."""
