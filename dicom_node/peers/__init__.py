"""How we call others: DICOM associations that we ask for, and DICOMweb."""
