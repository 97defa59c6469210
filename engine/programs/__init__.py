"""Screening programs: one series through all stages, a stage a line."""
