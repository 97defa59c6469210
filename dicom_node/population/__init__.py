"""What a site learns from its archive as a whole: queries, cohorts, agreement, the report, exports."""
