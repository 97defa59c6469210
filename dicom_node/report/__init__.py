"""The DICOM objects and pictures that go back."""
