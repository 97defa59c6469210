-- What got no number, and why: series by their header, series in analysis, results without a density, vertebrae.
CREATE VIEW withheld AS
SELECT
    program,
    CASE WHEN selected THEN 'analysis' ELSE 'selection' END AS stage,
    reason,
    COUNT(*) AS occurrences
FROM screening
WHERE state = 'set_aside'
GROUP BY program, selected, reason
UNION ALL
SELECT program, 'density', reason, COUNT(*)
FROM population
WHERE reason IS NOT NULL
GROUP BY program, reason
UNION ALL
SELECT p.program, 'vertebra', f.reason, COUNT(*)
FROM quality_flag f
JOIN population p ON p.result_id = f.result_id
WHERE f.withholds AND f.level IS NOT NULL
GROUP BY p.program, f.reason
