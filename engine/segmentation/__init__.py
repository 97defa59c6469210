"""Volume to segmentation."""
