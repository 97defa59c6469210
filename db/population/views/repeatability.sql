-- How well a density repeats: pairs of one patient on one scanner within 90 days; precision error as root mean square
-- SD, least significant change = 2.77 times that, from 30 pairs on (ISCD 2019, section on precision).
CREATE VIEW repeatability AS
SELECT
    program,
    COUNT(*) AS pairs,
    SQRT(AVG((volumetric_bmd - previous_bmd) * (volumetric_bmd - previous_bmd)) / 2) AS precision_error,
    CASE WHEN COUNT(*) >= 30
        THEN 2.77 * SQRT(AVG((volumetric_bmd - previous_bmd) * (volumetric_bmd - previous_bmd)) / 2)
    END AS least_significant_change
FROM population
WHERE previous_day IS NOT NULL
    AND study_day - previous_day <= 90
    AND previous_scanner_id = scanner_id
GROUP BY program
