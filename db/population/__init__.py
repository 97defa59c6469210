"""What the archive as a whole says: a table that is kept up to date, views over it, and how they are read."""
