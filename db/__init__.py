"""What the node remembers; the only place that speaks SQL."""
