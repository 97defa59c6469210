-- Patients whose latest density is called osteoporosis, without bone densitometry since.
CREATE VIEW worklist AS
SELECT
    p.program,
    p.patient_key,
    p.study_date,
    p.patient_sex,
    p.patient_age,
    p.volumetric_bmd,
    p.attenuation_mean,
    p.reference_only,
    t.study_instance_uid,
    s.series_instance_uid
FROM population p
JOIN series s ON s.id = p.series_id
JOIN study t ON t.id = s.study_id
WHERE p.is_latest
    AND p.finding = 'osteoporosis'
    AND NOT EXISTS (
        SELECT 1 FROM densitometry d
        WHERE d.patient_key = p.patient_key AND d.examination_day >= COALESCE(p.study_day, -1000000)
    )
