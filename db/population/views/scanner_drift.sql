-- Each scanner with its kernel and tube voltage, month by month, against its own mean of all months.
CREATE VIEW scanner_drift AS
WITH daily AS ( -- in the order of an index: no sort of all results
    SELECT
        program,
        scanner_id,
        study_date,
        COUNT(*) AS results,
        COUNT(patient_age) AS ages,
        SUM(patient_age) AS sum_age,
        COUNT(attenuation_mean) AS attenuations,
        SUM(attenuation_mean) AS sum_attenuation,
        COUNT(volumetric_bmd) AS densities,
        SUM(volumetric_bmd) AS sum_bmd,
        SUM(volumetric_bmd * volumetric_bmd) AS squares_bmd
    FROM population
    WHERE scanner_id IS NOT NULL AND study_date IS NOT NULL
    GROUP BY scanner_id, program, study_date
),
monthly AS (
    SELECT
        program,
        scanner_id,
        SUBSTR(study_date, 1, 6) AS study_month,
        CAST(SUM(results) AS BIGINT) AS results,
        CAST(SUM(sum_age) AS DOUBLE PRECISION) / NULLIF(SUM(ages), 0) AS mean_age,
        SUM(sum_attenuation) / NULLIF(SUM(attenuations), 0) AS mean_attenuation,
        CAST(SUM(densities) AS BIGINT) AS densities,
        SUM(sum_bmd) AS sum_bmd,
        SUM(squares_bmd) AS squares_bmd
    FROM daily
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
