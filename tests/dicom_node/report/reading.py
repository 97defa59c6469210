"""A structured report as somebody else reads it: groups, numbers, words, and the slices that it points at."""

from highdicom.sr import srread
from highdicom.sr.utils import find_content_items
from pydicom import dcmread
from pydicom.sr.coding import Code

from dicom_node.report import codes
from engine.records import Quantity, VertebralLevel


def groups_of(path):
    """Level (None: the patient) to measurement group, whatever its template."""
    content = srread(path).content
    groups = [*content.get_volumetric_roi_measurement_groups(), *content.get_image_measurement_groups()]
    sites = {codes.LEVELS[level]: level for level in VertebralLevel}
    beside = (codes.AREAL_BONE, codes.CALIBRATED_BONE)
    return {
        None if group.finding_type == codes.BONE_DENSITY else sites[group.finding_sites[0].value]: group
        for group in groups
        if group.finding_type not in beside
    }


def numbers_of(group, level):
    """Quantity to value, unit and model."""
    found = {}
    for measurement in group.get_measurements():
        for quantity, said in codes.QUANTITIES.items():
            derivation = codes.MEAN if quantity is Quantity.VOLUMETRIC_BMD and level is None else said.derivation
            if measurement.name == said.concept and measurement.derivation == derivation:
                items = {
                    str(item.ConceptNameCodeSequence[0].CodeMeaning): item for item in measurement[0].ContentSequence
                }
                model = f"{items['Algorithm Name'].TextValue}@{items['Algorithm Version'].TextValue}"
                assert quantity not in found
                found[quantity] = (measurement.value, measurement.unit.value, model)
    return found


def words_of(group):
    """(name, value) codes of the qualitative evaluations."""
    return [(one.name, one.value) for one in group.get_qualitative_evaluations()]


def code_items(path, name: Code):
    return list(find_content_items(dcmread(path), name=name, recursive=True))


def slice_of(analysis, reference):
    """The index k of the slice that a reference names: by instance, and by frame where it has many."""
    volume, uid = analysis.volume, str(reference.ReferencedSOPInstanceUID)
    if not volume.frame_numbers:
        assert "ReferencedFrameNumber" not in reference
        return volume.sop_instance_uids.index(uid)
    places = list(zip(volume.sop_instance_uids, volume.frame_numbers, strict=True))
    return places.index((uid, int(reference.ReferencedFrameNumber)))


def containers(report, meaning):
    found = find_content_items(report, value_type="CONTAINER", recursive=True)
    return [item for item in found if item.ConceptNameCodeSequence[0].CodeMeaning == meaning]


def images(report, meaning):
    found = find_content_items(report, value_type="IMAGE", recursive=True)
    return [item for item in found if item.ConceptNameCodeSequence[0].CodeMeaning == meaning]
