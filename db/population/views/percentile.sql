-- Where each patient's latest density stands among the site's patients of the same sex and decade of age.
CREATE VIEW percentile AS
WITH grouped AS (
    SELECT
        program,
        patient_sex,
        age_decade,
        COUNT(*) AS patients,
        AVG(volumetric_bmd) AS mean_bmd,
        SQRT((SUM(volumetric_bmd * volumetric_bmd) - SUM(volumetric_bmd) * AVG(volumetric_bmd))
            / NULLIF(COUNT(*) - 1, 0)) AS sd_bmd
    FROM population
    WHERE is_latest AND patient_sex IS NOT NULL AND age_decade IS NOT NULL
    GROUP BY program, patient_sex, age_decade
),
ranked AS (
    SELECT
        program,
        patient_key,
        study_date,
        patient_sex,
        patient_age,
        age_decade,
        volumetric_bmd,
        finding,
        RANK() OVER (PARTITION BY program, patient_sex, age_decade ORDER BY volumetric_bmd) AS place
    FROM population
    WHERE is_latest AND patient_sex IS NOT NULL AND age_decade IS NOT NULL
)
SELECT
    r.program,
    r.patient_key,
    r.study_date,
    r.patient_sex,
    r.patient_age,
    r.age_decade,
    r.volumetric_bmd,
    r.finding,
    g.patients,
    100 * CAST(r.place - 1 AS DOUBLE PRECISION) / NULLIF(g.patients - 1, 0) AS percentile,
    (r.volumetric_bmd - g.mean_bmd) / NULLIF(g.sd_bmd, 0) AS z_score
FROM ranked r
JOIN grouped g
    ON g.program = r.program AND g.patient_sex = r.patient_sex AND g.age_decade = r.age_decade
