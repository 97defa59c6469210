"""A body's heights are its own, however it is tilted and sliced."""

import numpy as np
import pytest

from engine.measurement.heights import body_heights
from engine.volume import Segmentation

WEDGE = (18.0, 22.5, 27.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 0.8, 0.8), (3.0, 0.8, 0.8)])
@pytest.mark.parametrize("tilt", [-25.0, 0.0, 5.0, 12.0])
def test_heights_of_a_drum_are_equal(spine, spacing, tilt):
    found = body_heights(spine(spacing_mm=spacing, tilt=np.deg2rad(tilt)).bodies)
    assert list(found) == [1, 2, 3, 4]
    for heights in found.values():
        for height in (heights.anterior, heights.middle, heights.posterior):
            assert height == pytest.approx(27.0, abs=0.35 + spacing[0])
        three = (heights.anterior, heights.middle, heights.posterior)
        assert min(three) / max(three) > 0.93


def test_a_wedge_is_low_in_front(spine):
    found = body_heights(spine(heights=[(27.0,) * 3, WEDGE, (27.0,) * 3]).bodies)
    assert found[2].anterior < 19.5
    assert found[2].middle == pytest.approx(22.5, abs=0.8)
    assert found[2].posterior > 25.5


def test_a_biconcave_body_is_low_in_the_middle(spine):
    heights = body_heights(spine(heights=[(27.0,) * 3, (27.0, 19.0, 27.0), (27.0,) * 3]).bodies)[2]
    assert heights.middle < 21 < 25 < min(heights.anterior, heights.posterior)


def test_a_body_of_a_few_voxels_has_no_heights(spine):
    bodies = spine().bodies
    labels = np.zeros_like(bodies.labels)
    labels[50:52, 40:42, 40:42] = 2
    assert body_heights(Segmentation(bodies.geometry, labels, bodies.segments)) == {}
