-- Density of the site's patients by sex and decade of age: mean, standard deviation, percentiles (nearest rank).
CREATE VIEW reference_curve AS
WITH ranked AS (
    SELECT
        program,
        patient_sex,
        age_decade,
        volumetric_bmd,
        ROW_NUMBER() OVER (PARTITION BY program, patient_sex, age_decade ORDER BY volumetric_bmd) AS place,
        COUNT(*) OVER (PARTITION BY program, patient_sex, age_decade) AS patients
    FROM population
    WHERE is_latest AND patient_sex IS NOT NULL AND age_decade IS NOT NULL
)
SELECT
    program,
    patient_sex,
    age_decade,
    COUNT(*) AS patients,
    AVG(volumetric_bmd) AS mean_bmd,
    SQRT((SUM(volumetric_bmd * volumetric_bmd) - SUM(volumetric_bmd) * AVG(volumetric_bmd))
        / NULLIF(COUNT(*) - 1, 0)) AS sd_bmd,
    MIN(CASE WHEN place >= 0.05 * patients THEN volumetric_bmd END) AS p5,
    MIN(CASE WHEN place >= 0.25 * patients THEN volumetric_bmd END) AS p25,
    MIN(CASE WHEN place >= 0.50 * patients THEN volumetric_bmd END) AS p50,
    MIN(CASE WHEN place >= 0.75 * patients THEN volumetric_bmd END) AS p75,
    MIN(CASE WHEN place >= 0.95 * patients THEN volumetric_bmd END) AS p95
FROM ranked
GROUP BY program, patient_sex, age_decade
