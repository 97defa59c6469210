"""How archives are read: folders, DICOMDIRs and PACSs, series by series."""
