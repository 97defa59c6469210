"""How tests of loading ask why a series was refused."""

import pytest

from engine.errors import SeriesError
from engine.loading.load import LoadingOptions, load
from engine.records import SeriesRef

OPTIONS = LoadingOptions(threads=2)


def refusal(series: SeriesRef, options: LoadingOptions = OPTIONS) -> SeriesError:
    """Why loading turns a series away; what it says names no patient and no path."""
    with pytest.raises(SeriesError) as caught:
        load(series, options)
    assert "P-1" not in str(caught.value)
    assert "/" not in str(caught.value)
    return caught.value
