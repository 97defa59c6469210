-- The flow diagram: how many came in, what was left out at each step and why, what remained.
CREATE VIEW flow AS
WITH program AS (SELECT program FROM screening GROUP BY program),
placed AS (
    SELECT program, state, selected, reason, COUNT(*) AS n FROM screening GROUP BY program, state, selected, reason
),
results AS (
    SELECT program, reason, COUNT(*) AS n FROM population GROUP BY program, reason
)
SELECT program, 10 AS step, 'studies received' AS stage, NULL AS reason, (SELECT COUNT(*) FROM study) AS n FROM program
UNION ALL
SELECT program, 20, 'series received', NULL, (SELECT COUNT(*) FROM series) FROM program
UNION ALL
SELECT
    program, 30, 'series not decided: study is open', NULL,
    (SELECT COUNT(*) FROM series)
        - (SELECT CAST(COALESCE(SUM(n), 0) AS BIGINT) FROM placed WHERE placed.program = program.program)
FROM program
UNION ALL
SELECT program, 40, 'series excluded by header', reason, n FROM placed WHERE state = 'set_aside' AND NOT selected
UNION ALL
SELECT program, 50, 'series selected', NULL, CAST(SUM(n) AS BIGINT) FROM placed WHERE selected GROUP BY program
UNION ALL
SELECT program, 60, 'series waiting', NULL, CAST(SUM(n) AS BIGINT) FROM placed WHERE state = 'waiting' GROUP BY program
UNION ALL
SELECT program, 70, 'series excluded in analysis', reason, n FROM placed WHERE state = 'set_aside' AND selected
UNION ALL
SELECT program, 80, 'results', NULL, CAST(SUM(n) AS BIGINT) FROM results GROUP BY program
UNION ALL
SELECT program, 90, 'results without a density', reason, n FROM results WHERE reason IS NOT NULL
UNION ALL
SELECT program, 100, 'results with a density', NULL, CAST(SUM(n) AS BIGINT) FROM results WHERE reason IS NULL GROUP BY program
UNION ALL
SELECT program, 110, 'patients with a density', NULL, COUNT(*) FROM population WHERE is_latest GROUP BY program
