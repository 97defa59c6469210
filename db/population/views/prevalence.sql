-- How common each finding is, by sex and decade of age; interval after Wilson (1927), 95 %.
CREATE VIEW prevalence AS
WITH counted AS (
    SELECT
        program,
        patient_sex,
        age_decade,
        COUNT(*) AS patients,
        SUM(CASE WHEN finding = 'normal' THEN 1 ELSE 0 END) AS normal,
        SUM(CASE WHEN finding = 'osteopenia' THEN 1 ELSE 0 END) AS osteopenia,
        SUM(CASE WHEN finding = 'osteoporosis' THEN 1 ELSE 0 END) AS osteoporosis
    FROM population
    WHERE is_latest
    GROUP BY program, patient_sex, age_decade
),
listed AS (
    SELECT program, patient_sex, age_decade, 'normal' AS finding, normal AS with_finding, patients FROM counted
    UNION ALL
    SELECT program, patient_sex, age_decade, 'osteopenia', osteopenia, patients FROM counted
    UNION ALL
    SELECT program, patient_sex, age_decade, 'osteoporosis', osteoporosis, patients FROM counted
),
shares AS (
    SELECT
        listed.*,
        CAST(with_finding AS DOUBLE PRECISION) / patients AS share,
        CAST(3.8414588 AS DOUBLE PRECISION) / patients AS z2_n -- z squared over n; z = 1.959964
    FROM listed
)
SELECT
    program,
    patient_sex,
    age_decade,
    finding,
    with_finding,
    patients,
    share,
    (share + z2_n / 2 - SQRT(z2_n * (share * (1 - share) + z2_n / 4))) / (1 + z2_n) AS share_low,
    (share + z2_n / 2 + SQRT(z2_n * (share * (1 - share) + z2_n / 4))) / (1 + z2_n) AS share_high
FROM shares
