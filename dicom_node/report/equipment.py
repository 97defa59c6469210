"""Who made the report: our software as DICOM's equipment, and each model that took part."""

from typing import Any

from pydicom import Dataset

from dicom_node.report import codes
from dicom_node.report.options import MANUFACTURER, ReportOptions
from dicom_node.report.source_headers import SourceHeaders
from dicom_node.report.uids import device_uid, model_uid, report_uid
from engine.records import ScreeningResult, SeriesRef

SERIES = {
    "sr": ("sr series", 0, "Bone density from CT"),
    "seg": ("seg series", 1, "Bone density from CT: measured regions"),
    "picture": ("picture series", 2, "Bone density from CT: overview"),
}
"""For each kind of object: what names its series' UID, the offset of its series number, its description."""


def model_name(result: ScreeningResult) -> str:
    """The product that the report comes from, as Manufacturer's Model Name."""
    return f"{MANUFACTURER} {result.program.value}"


def is_research_only(result: ScreeningResult) -> bool:
    """Whether any model may not be used for diagnosis."""
    return any(model.reference_only for model in result.models)


def object_attributes(
    kind: str, series: SeriesRef, result: ScreeningResult, source: SourceHeaders, options: ReportOptions
) -> dict[str, Any]:
    """What every object's constructor is told: its UIDs, its series, its maker and its time."""
    named, offset, description = SERIES[kind]
    made = source.local_time(result.analysed_at)
    return {
        "series_instance_uid": report_uid(named, series, result),
        "series_number": options.series_number + offset,
        "series_description": description + (" (research only)" if is_research_only(result) else ""),
        "sop_instance_uid": report_uid(kind, series, result),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": model_name(result),
        "software_versions": result.engine_version,
        "device_serial_number": options.device_serial_number or device_uid(result).removeprefix("2.25.")[:16],
        "institution_name": options.institution_name or None,
        "institutional_department_name": options.institutional_department_name or None,
        "content_date": made.date(),
        "content_time": made.time(),
        "contributing_equipment": contributing_equipment(result),
    }


def contributing_equipment(result: ScreeningResult) -> list[Dataset]:
    """One item a model; its device UID is another one when the weights are.

    Source: IHE AI Results asks for this; PS3.3 C.12.1.1.5.
    """
    from highdicom import ContributingEquipment

    items = []
    for model in result.models:
        use = "reference weights, research only" if model.reference_only else "released weights"
        item = ContributingEquipment(
            manufacturer=MANUFACTURER,
            purpose_of_reference=codes.PROCESSING_EQUIPMENT,
            manufacturer_model_name=model.name,
            software_versions=[model.version, model.sha256],
            contribution_description=f"{use}; {model.precision} on {model.backend}; sha256 {model.sha256}",
        )
        item.DeviceUID = model_uid(model)
        items.append(item)
    return items
