"""The document says whose it is, what it rests on and how far it may be trusted."""

from dataclasses import replace

import pytest
from highdicom.sr.utils import find_content_items
from pydicom import Dataset, dcmread
from pydicom.sr.coding import Code

from dicom_node.report import codes
from dicom_node.report.options import RESEARCH_ONLY, ReportOptions
from dicom_node.report.uids import device_uid, model_uid, report_uid

from .reading import code_items, containers, images, slice_of


@pytest.mark.parametrize("case", ["series", "without_cores"])
def test_the_evidence_is_the_analysed_images_and_the_segmentation(case, written, request):
    analysis = request.getfixturevalue(case)
    paths = written(analysis)
    report = dcmread(paths["sr"])
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    listed = {
        series.SeriesInstanceUID: {item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence}
        for series in study.ReferencedSeriesSequence
    }
    expected = {analysis.series.series_instance_uid: set(analysis.volume.sop_instance_uids)}
    if "seg" in paths:
        segmentation = dcmread(paths["seg"])
        expected[segmentation.SeriesInstanceUID] = {segmentation.SOPInstanceUID}
    assert study.StudyInstanceUID == analysis.series.study_instance_uid
    assert listed == expected
    used = {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in find_content_items(report, value_type="IMAGE", recursive=True)
    }
    assert used <= set.union(*listed.values())


@pytest.mark.parametrize("case", ["series", "multiframe"])
def test_the_library_lists_one_slice_a_level(case, written, request):
    analysis = request.getfixturevalue(case)
    (library,) = containers(dcmread(written(analysis)["sr"]), "Image Library")
    slices = [slice_of(analysis, image.ReferencedSOPSequence[0]) for image in images(library, "Source")]
    assert len(slices) == len(set(slices)) == len(analysis.result.levels)
    for level, k in zip(analysis.result.levels, slices, strict=True):
        number = analysis.trabecular.segments.index(level) + 1
        assert (analysis.trabecular.labels[k] == number).any()


def test_the_warning_stands_in_the_document_as_long_as_a_model_is_for_research(series, written):
    path = written(series)["sr"]
    assert [item.TextValue for item in code_items(path, codes.COMMENT)] == [RESEARCH_ONLY]
    assert "research only" in dcmread(path).SeriesDescription
    released = tuple(replace(model, reference_only=False) for model in series.result.models)
    path = written(replace(series, result=replace(series.result, models=released)))["sr"]
    assert code_items(path, codes.COMMENT) == []
    assert "research" not in dcmread(path).SeriesDescription


def test_it_is_unverified_and_says_who_made_it(series, written):
    path = written(series)["sr"]
    report = dcmread(path)
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    (observer,) = find_content_items(report, value_type="UIDREF", name=Code("121012", "DCM", "Device Observer UID"))
    assert device_uid(series.result) == observer.UID
    equipment = {item.ManufacturerModelName: item for item in report.ContributingEquipmentSequence}
    for model in series.result.models:
        assert equipment[model.name].DeviceUID == model_uid(model)
        assert model.sha256 in list(equipment[model.name].SoftwareVersions)
    assert series.series.manufacturer_model_name in equipment


def test_the_procedure_is_the_sources_own_where_it_has_one(series, changed, written):
    def name_procedure(dataset):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "CTABD", "99SITE", "CT Abdomen"
        dataset.ProcedureCodeSequence = [item]

    name = Code("121058", "DCM", "Procedure reported")
    (said,) = code_items(written(series)["sr"], name)
    assert said.ConceptCodeSequence[0].CodeValue == codes.CT_PROCEDURE.value
    (said,) = code_items(written(changed(name_procedure))["sr"], name)
    assert said.ConceptCodeSequence[0].CodeMeaning == "CT Abdomen"


def test_the_time_is_the_analysis_own(series, changed, written):
    def far_east(dataset):
        dataset.TimezoneOffsetFromUTC = "+0900"

    report = dcmread(written(changed(far_east))["sr"])
    assert (report.ContentDate, report.ContentTime) == ("20261121", "190507.123456")
    assert report.TimezoneOffsetFromUTC == "+0900"


def test_uids_are_the_promised_ones(series, written):
    for kind, path in written(series, ReportOptions()).items():
        written_object = dcmread(path, stop_before_pixels=True)
        assert written_object.SOPInstanceUID == report_uid(kind, series.series, series.result)
        assert written_object.SeriesInstanceUID == report_uid(f"{kind} series", series.series, series.result)
        assert written_object.StudyInstanceUID == series.series.study_instance_uid


def test_it_names_the_document_that_it_replaces(series, written, former):
    assert "PredecessorDocumentsSequence" not in dcmread(written(series)["sr"])
    report = dcmread(written(series, predecessor=former)["sr"])
    (study,) = report.PredecessorDocumentsSequence
    (of_series,) = study.ReferencedSeriesSequence
    (reference,) = of_series.ReferencedSOPSequence
    assert study.StudyInstanceUID == series.series.study_instance_uid
    named = (reference.ReferencedSOPClassUID, of_series.SeriesInstanceUID, reference.ReferencedSOPInstanceUID)
    assert named == (former.sop_class_uid, former.series_instance_uid, former.sop_instance_uid)


def test_an_unknown_thickness_is_not_made_up(series, changed, written):
    def lose(dataset):
        del dataset.SliceThickness

    paths = written(changed(lose))
    assert code_items(paths["sr"], codes.SLICE_THICKNESS) == []
    shared = dcmread(paths["seg"]).SharedFunctionalGroupsSequence[0]
    assert float(shared.PixelMeasuresSequence[0].SliceThickness) == series.volume.geometry.spacing_mm[0]
