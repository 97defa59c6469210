"""Series that share a network's batches share no failure."""

from types import SimpleNamespace

import numpy as np
import pytest

from engine.errors import UnusableModel
from engine.runtime.session import in_runs, in_streams
from engine.runtime.sharing import ask_together


def odd_is_ill(batch):
    if (batch[:, 0] % 2).any():
        raise ZeroDivisionError("an ill input")
    return batch + 1


def one(value):
    answer = yield np.full((2, 1), value, dtype=np.float32)
    if value == 8:
        raise ValueError("of its own")
    return float(answer[0, 0])


def test_one_asker_s_failure_is_no_other_s():
    session = SimpleNamespace(infer=odd_is_ill)
    first, ill, third, own, empty = ask_together([one(2), one(3), one(4), one(8), iter_nothing()], session)
    assert (first, third, empty) == (3.0, 5.0, "nothing asked")
    assert isinstance(ill, ZeroDivisionError)
    assert isinstance(own, ValueError)


def iter_nothing():
    return "nothing asked"
    yield


def test_a_network_that_can_t_run_is_nobody_s_failure():
    def gone(batch):
        raise UnusableModel("gone")

    with pytest.raises(UnusableModel):
        ask_together([one(2), one(3)], SimpleNamespace(infer=gone))


def test_runs_are_of_one_size_and_the_last_is_filled_up():
    sizes = []

    def run(inputs):
        sizes.append(len(inputs))
        return inputs * 2

    inputs = np.arange(7, dtype=np.float32)[:, None]
    assert np.array_equal(in_runs(inputs, 3, run), inputs * 2)
    assert sizes == [3, 3, 3]


@pytest.mark.parametrize("streams", [1, 2, 8])
def test_streams_take_runs_of_one_size_side_by_side(streams):
    sizes = []

    def run(runs):
        sizes.append([len(one) for one in runs])
        return [one * 2 for one in runs]

    inputs = np.arange(7, dtype=np.float32)[:, None]
    assert np.array_equal(in_streams(inputs, 2, streams, run), inputs * 2)
    assert [size for some in sizes for size in some] == [2, 2, 2, 2]
    assert max(len(one) for one in sizes) == min(streams, 4)
