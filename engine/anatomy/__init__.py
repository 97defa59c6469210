"""Names and regions: vertebral levels, trabecular cores."""
