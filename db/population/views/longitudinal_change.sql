-- Each patient's latest density against the first, judged by the site's own least significant change.
CREATE VIEW longitudinal_change AS
SELECT
    p.program,
    p.patient_key,
    p.study_date,
    p.patient_sex,
    p.patient_age,
    p.first_bmd,
    p.volumetric_bmd AS latest_bmd,
    CAST(p.study_day - p.first_day AS DOUBLE PRECISION) / 365.25 AS years,
    p.volumetric_bmd - p.first_bmd AS change,
    (p.volumetric_bmd - p.first_bmd) / NULLIF(CAST(p.study_day - p.first_day AS DOUBLE PRECISION) / 365.25, 0) AS change_per_year,
    CASE WHEN p.first_scanner_id = p.scanner_id THEN 1 ELSE 0 END AS same_scanner,
    r.least_significant_change,
    CASE
        WHEN r.least_significant_change IS NULL THEN 'unknown'
        WHEN p.volumetric_bmd - p.first_bmd >= r.least_significant_change THEN 'gain'
        WHEN p.first_bmd - p.volumetric_bmd >= r.least_significant_change THEN 'loss'
        ELSE 'within precision'
    END AS verdict
FROM population p
LEFT JOIN repeatability r ON r.program = p.program
WHERE p.is_latest AND p.first_day IS NOT NULL
