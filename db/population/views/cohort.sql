-- Each patient's latest density.
CREATE VIEW cohort AS
SELECT
    p.program,
    p.patient_key,
    p.study_date,
    p.patient_sex,
    p.patient_age,
    p.age_decade,
    p.attenuation_mean,
    p.volumetric_bmd,
    p.calibrated_bmd,
    p.areal_bmd,
    p.trabecular_bone_score,
    p.finding,
    p.reference_only,
    c.manufacturer,
    c.manufacturer_model_name,
    c.station_name,
    c.convolution_kernel,
    c.kvp,
    s.slice_thickness,
    t.study_instance_uid,
    s.series_instance_uid,
    p.result_id
FROM population p
JOIN series s ON s.id = p.series_id
JOIN study t ON t.id = s.study_id
LEFT JOIN scanner c ON c.id = p.scanner_id
WHERE p.is_latest
