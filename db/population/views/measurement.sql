-- Every vertebra of every current result, with all that its numbers came from.
CREATE VIEW measurement AS
SELECT
    p.program,
    p.patient_key,
    p.patient_sex,
    p.patient_age,
    p.study_date,
    t.study_instance_uid,
    s.series_instance_uid,
    v.level,
    v.attenuation_mean,
    v.attenuation_median,
    v.attenuation_sd,
    v.core_volume,
    v.volumetric_bmd,
    v.calibrated_bmd,
    v.areal_bmd,
    v.trabecular_bone_score,
    v.finding,
    v.reason,
    v.aggregated,
    c.manufacturer,
    c.manufacturer_model_name,
    c.station_name,
    c.convolution_kernel,
    c.kvp,
    s.slice_thickness,
    r.attenuation_model,
    r.density_model,
    (
        SELECT m.sha256
        FROM result_model rm
        JOIN model m ON m.id = rm.model_id
        WHERE rm.result_id = p.result_id AND m.name || '@' || m.version = r.density_model
    ) AS density_model_sha256,
    r.calibrated_bmd_model,
    r.areal_bmd_model,
    r.trabecular_bone_score_model,
    p.reference_only,
    k.method AS calibration_method,
    k.source AS calibration_source,
    k.reference_material,
    r.policy,
    r.engine_version,
    r.analysed_at,
    p.result_id
FROM population p
JOIN result r ON r.id = p.result_id
JOIN series s ON s.id = p.series_id
JOIN study t ON t.id = s.study_id
JOIN vertebra v ON v.result_id = p.result_id
LEFT JOIN scanner c ON c.id = p.scanner_id
LEFT JOIN calibration k ON k.result_id = p.result_id AND k.quantity = 'volumetric_bmd'
