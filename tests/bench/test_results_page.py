"""The page of results says what the files say, of every file, and whether it is enough."""

import json

from bench.report import RESULTS
from bench.results_page import PAGE, WORDS, page
from bench.targets import TARGETS, Target


def test_the_page_is_what_the_command_makes_of_the_files():
    assert PAGE.read_text(encoding="utf-8") == page(), "make results"


def test_every_file_has_its_place_and_every_target_its_figure():
    files = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
    assert files.keys() <= WORDS.keys()
    assert {one.file for one in TARGETS} <= WORDS.keys()
    assert [one for one in TARGETS if one.file in files and one.found(files[one.file]) is None] == []


def test_the_worst_of_several_figures_counts():
    figures = {"view_s_a": 1.0, "view_s_b": 2.5, "views": 9, "view_s_c": {"median": 9.0}, "view_s_d": True}
    slowest = Target("database", "view_s_*", "slowest view", 2.0, least=False)
    assert slowest.found(figures) == 2.5
    assert not slowest.held(2.5)
    assert Target("database", "view_s_*", "fastest view", 1.0).found(figures) == 1.0
    assert slowest.found({}) is None


def test_a_figure_beyond_its_bound_is_told_at_the_top(tmp_path):
    machine = {"cpus": 2, "processor": "a processor", "python": "3.11", "date": "2026-01-02"}
    (tmp_path / "loader.json").write_text(json.dumps({"machine": machine, "ratio_pydicom_evle": 4.5}))
    text = page(tmp_path)
    assert "**0 of 1 targets are held.**" in text
    assert "- Loading: uncompressed: faster than pydicom, times: 4.5, at least 5" in text
    assert "`python -m bench.loader`; 2026-01-02, 2 cores of a processor." in text
