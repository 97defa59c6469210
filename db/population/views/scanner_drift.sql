-- Each scanner with its kernel and tube voltage, month by month, against its own mean of all months.
CREATE VIEW scanner_drift AS
WITH monthly AS (
    SELECT
        program,
        scanner_id,
        SUBSTR(study_date, 1, 6) AS study_month,
        COUNT(*) AS results,
        CAST(AVG(patient_age) AS DOUBLE PRECISION) AS mean_age,
        AVG(attenuation_mean) AS mean_attenuation,
        COUNT(volumetric_bmd) AS densities,
        SUM(volumetric_bmd) AS sum_bmd,
        SUM(volumetric_bmd * volumetric_bmd) AS squares_bmd
    FROM population
    WHERE scanner_id IS NOT NULL AND study_date IS NOT NULL
    GROUP BY program, scanner_id, SUBSTR(study_date, 1, 6)
),
overall AS (
    SELECT
        program,
        scanner_id,
        SUM(sum_bmd) / NULLIF(SUM(densities), 0) AS mean_bmd,
        SQRT((SUM(squares_bmd) - SUM(sum_bmd) * SUM(sum_bmd) / NULLIF(SUM(densities), 0))
            / NULLIF(SUM(densities) - 1, 0)) AS sd_bmd
    FROM monthly
    GROUP BY program, scanner_id
)
SELECT
    m.program,
    c.manufacturer,
    c.manufacturer_model_name,
    c.station_name,
    c.convolution_kernel,
    c.kvp,
    m.study_month,
    m.results,
    m.mean_age,
    m.mean_attenuation,
    m.densities,
    m.sum_bmd / NULLIF(m.densities, 0) AS mean_bmd,
    o.mean_bmd AS scanner_mean_bmd,
    (m.sum_bmd / NULLIF(m.densities, 0) - o.mean_bmd) / NULLIF(o.sd_bmd, 0) * SQRT(m.densities) AS z_of_month
FROM monthly m
JOIN overall o ON o.program = m.program AND o.scanner_id = m.scanner_id
JOIN scanner c ON c.id = m.scanner_id
