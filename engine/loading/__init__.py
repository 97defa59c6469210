"""Files to volumes: order, geometry, pixels to Hounsfield units."""
