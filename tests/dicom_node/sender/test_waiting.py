"""While reports wait, `status` says why: what the sender met last at each destination, and when it tries again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from db import waiting
from db.waiting import Waiting, Why
from dicom_node import cli
from dicom_node.sender.lines import Sender
from engine.errors import UnusableCredentials

from ..foreign import free_port
from ..patience import until
from .peer import SOCKETS_LEFT, options, pacs, peer, running
from .reports import Reports

pytestmark = SOCKETS_LEFT


def told(reports: Reports) -> list[Waiting]:
    with reports.database.read() as connection:
        return list(waiting.waiting(connection, {"pacs": False, "gone": False}))


def whys(reports: Reports) -> set[Why]:
    return {line.why for line in told(reports)}


def test_a_destination_that_is_away_is_told_until_it_is_back(reports: Reports):
    reports.add("pacs")
    port = free_port()
    with running(Sender(reports.database, options(pacs(port)))):
        until(lambda: whys(reports) == {Why.LEFT_ALONE})
        (line,) = told(reports)
        assert (line.objects, line.detail) == (2, "'pacs' can't be reached: nobody listens there")
        with peer(port=port):
            until(lambda: told(reports) == [])
    reports.add("pacs")
    assert whys(reports) == {Why.NOBODY_SENDS}


def test_a_called_title_that_is_not_theirs_is_told(reports: Reports):
    reports.add("pacs")
    with peer(require_called_aet=True) as there:
        Sender(reports.database, options(pacs(there.port, ae_title="WRONG"))).run(until_idle=True)
        assert [(line.why, line.detail) for line in told(reports)] == [
            (Why.NOBODY_SENDS, "'pacs' rejected the association: Called AE title not recognised")
        ]


def test_refusals_are_told_and_no_more_that_it_was_away(reports: Reports):
    reports.add("pacs")
    reports.add("pacs")
    port = free_port()
    with running(Sender(reports.database, options(pacs(port), retry_after_s=0.3, max_refusals=3, refusals_in_a_row=9))):
        until(lambda: whys(reports) == {Why.LEFT_ALONE})
        with peer(0xA900, port=port):
            until(lambda: whys(reports) == {Why.REFUSED})
            assert {line.detail for line in told(reports)} == {"status 0xa900"}
            until(lambda: whys(reports) == {Why.DEAD})
    assert [(line.objects, line.detail) for line in told(reports)] == [(4, "status 0xa900")]


def test_one_that_refuses_one_after_the_other_stays_left_alone(reports: Reports):
    for _ in range(4):
        reports.add("pacs")
    patient = {"refusals_in_a_row": 3, "longest_retry_s": 60.0, "retry_after_s": 60.0, "batch": 3}
    with peer(0xA900) as there, running(Sender(reports.database, options(pacs(there.port), **patient))):
        until(lambda: Why.LEFT_ALONE in whys(reports))
        by_why = {line.why: line for line in told(reports)}
        assert by_why[Why.LEFT_ALONE].objects == 5
        assert by_why[Why.LEFT_ALONE].detail == "'pacs' refuses one object after the other"
        assert by_why[Why.REFUSED].objects == 3
        next_s = by_why[Why.LEFT_ALONE].next_s
        assert next_s is not None
        assert 10 < next_s <= 60


def test_certificates_that_cannot_be_used_hold_up_their_destination_alone(reports: Reports):
    reports.add("pacs", "other")
    with peer() as there, peer() as other:
        secret = replace(pacs(there.port), tls_authorities=str(reports.folder / "gone.pem"))
        both = options(secret, replace(pacs(other.port), name="other"))
        with pytest.raises(UnusableCredentials, match="the TLS files for 'pacs' can't be used"):
            Sender(reports.database, both).run(until_idle=True)
        assert len(other.stored) == 2
        reports.add("pacs", "other")
        with running(Sender(reports.database, both)):
            until(lambda: len(other.stored) == 4)
            until(lambda: whys(reports) == {Why.LEFT_ALONE})
            assert {line.detail for line in told(reports)} == {
                "the TLS files for 'pacs' can't be used (FileNotFoundError)"
            }
        with running(Sender(reports.database, options(pacs(there.port)))):
            until(lambda: len(there.stored) == 4)


def test_status_says_it_in_a_line_and_to_programs(reports: Reports, tmp_path: Path):
    reports.add("pacs", "gone")
    config = tmp_path / "node.toml"
    port = free_port()
    config.write_text(
        "[database]\nurl = 'sqlite:///memory.db'\n"
        f"[[sender.destinations]]\nname = 'pacs'\nae_title = 'PACS'\nhost = '127.0.0.1'\nport = {port}\n"
    )
    call = CliRunner(env={"COLUMNS": "200"}).invoke
    with running(Sender(reports.database, options(pacs(port)))):
        until(lambda: Why.LEFT_ALONE in whys(reports))
        said = call(cli.app, ["status", "-c", str(config)])
        assert said.exit_code == 0
        assert "2 wait: 'pacs' can't be reached: nobody listens there; for " in said.output
        assert "2 wait: the configuration has no destination of this name" in said.output
        table = json.loads(call(cli.app, ["status", "-c", str(config), "--json"]).output)
    assert [(line["destination"], line["why"], line["objects"]) for line in table["waiting"]] == [
        ("gone", "not_configured", 2),
        ("pacs", "left_alone", 2),
    ]
