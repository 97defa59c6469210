"""A series that is one image of many frames comes from real archives, whatever these tell of it."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from db.schema import BackfillState
from db.studies import series_of_study
from dicom_node.backfill.estimate import estimate
from dicom_node.backfill.options import Archive, Retrieve
from engine.loading.load import LoadingOptions, load
from engine.records import Reason

from ..foreign import Dcmqrscp, Namespace, Orthanc, need
from .conftest import SELECTION, SLICES, MadeArchive, Memory, uid
from .test_archives import MARCH, OPTIONS, front_door, of, read, source

ENHANCED, LEGACY, SHORT, SCOUT = uid(1, 1), uid(2, 1), uid(3, 1), uid(3, 2)


@pytest.fixture(scope="module")
def every_file(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two series of one enhanced image that serve; one with too few frames; a localizer that is one plain slice."""
    made = MadeArchive(tmp_path_factory.mktemp("multiframe"))
    made.add_multiframe(1, 1)
    made.add_multiframe(2, 1, legacy=True)
    made.add_multiframe(3, 1, frames=SELECTION.min_slices - 1)
    made.add(3, 2, slices=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    return [path for paths in made.files.values() for path in paths]


def is_read(memory: Memory, series: str, frames: int = SLICES) -> bool:
    """Whether it is booked as one instance, and the engine makes a volume of all its frames."""
    assert memory.registered()[series] == 1
    with memory.database.read() as connection:
        (ref,) = series_of_study(connection, series.rpartition(".")[0])
    return load(ref, LoadingOptions(threads=1)).hounsfield.shape == (frames, 16, 16)


@pytest.mark.parametrize("retrieve", [Retrieve.GET, Retrieve.MOVE, None])
def test_orthanc_gives_enhanced_and_legacy_converted_ct(
    memory: Memory, orthanc: Orthanc, every_file: list[Path], retrieve: Retrieve | None
):
    orthanc.add(every_file)
    with front_door(memory) as port:
        orthanc.knows("TRABECULA", port)
        counted = estimate(source(of(orthanc, retrieve)), OPTIONS)
        assert (counted.wanted, counted.instances, counted.slices) == (2, 2, 2 * SLICES)
        assert read(memory, source(of(orthanc, retrieve))) is BackfillState.DONE
    assert is_read(memory, ENHANCED)
    assert is_read(memory, LEGACY)
    states = memory.series()
    assert states[SHORT][:2] == ("skipped", Reason.TOO_FEW_SLICES)
    assert states[SCOUT][:2] == ("skipped", Reason.LOCALIZER)


def test_an_archive_that_tells_neither_class_nor_frames_gives_them_too(
    memory: Memory, namespace: Namespace, inside: None, every_file: list[Path], tmp_path: Path
):
    """DCMTK's. By C-GET one image is looked at before; by C-MOVE what may serve is fetched, and the node decides."""
    need("dcmqrscp", "storescu")
    with front_door(memory) as port:
        archive = Dcmqrscp(tmp_path, {"TRABECULA": port})
        there = Archive("dcmtk", "ARCHIVE", "127.0.0.1", archive.port)
        try:
            archive.add(every_file)
            day = replace(MARCH, until=MARCH.since)
            assert read(memory, source(replace(there, retrieve=Retrieve.MOVE), day)) is BackfillState.DONE
            assert is_read(memory, ENHANCED)
            rest = replace(MARCH, since=date(2026, 3, 2))
            assert read(memory, source(there, rest)) is BackfillState.DONE
        finally:
            archive.stop()
    assert is_read(memory, LEGACY)
    states = memory.series()
    assert states[SHORT][:2] == ("skipped", Reason.TOO_FEW_SLICES)
    assert states[SCOUT][:2] == ("skipped", Reason.LOCALIZER)
