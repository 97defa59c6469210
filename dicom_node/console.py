"""
What the commands show to people at a terminal: tables, nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from db.overview import Counts, ResultLine, SeriesExplained, StudyExplained
from db.progress import BackfillLine
from db.waiting import Waiting, Why
from dicom_node.backfill.estimate import Estimate
from dicom_node.doctor import Check, State

STYLES = {State.OK: "green", State.NOTE: "cyan", State.WARN: "bold yellow", State.WRONG: "bold red"}
NOT_FOR_DIAGNOSIS = "Reference weights trained on phantoms: not for diagnosis."


def checks_table(checks: Iterable[Check]) -> Table:
    """What the doctor found."""
    table = _table("", "what", "how it stands")
    for check in checks:
        table.add_row(Text(check.state, STYLES[check.state]), check.subject, Text(check.detail))
    return table


def status_tables(
    counts: Counts,
    spool: Mapping[str, int | None],
    backfills: Sequence[BackfillLine] = (),
    reports: Sequence[Waiting] = (),
) -> RenderableType:
    """How many there are of everything, what waits and why, and what the disk has left."""
    rows = [
        ("studies", counts.studies),
        ("series", counts.series),
        ("  set aside", counts.set_aside),
        ("jobs", counts.jobs),
    ]
    table = _table("", "how many, by state or reason")
    for name, states in rows:
        table.add_row(name, _counted(states) or "-")
    for name, states in counts.destinations.items():
        why = [waiting_words(line) for line in reports if line.destination == name]
        table.add_row(f"reports to {name}", Text("\n".join([_counted(states), *why])))
    table.add_row("refused instances", _counted(counts.refusals) or "-")
    table.add_row("instances", f"{counts.instances}, {_mib(counts.instance_bytes)}")
    table.add_row("oldest job waits", _duration(counts.oldest_job_s))
    table.add_row("oldest report waits", _duration(counts.oldest_object_s))
    table.add_row("spool", spool_words(spool))
    for line in backfills:
        table.add_row(f"backfill {line.id}", f"{line.archive}, {line.said}\n{backfill_words(line)}")
    return table


def spool_words(spool: Mapping[str, int | None]) -> str:
    """What the disk of the spool has left, and whether anything is taken in.

    >>> spool_words({"free_bytes": 3 * 2**30, "reserve_bytes": 2**30, "least_bytes": 2**31})
    '3,072 MiB free, 1,024 MiB of it the reserve'
    >>> spool_words({"free_bytes": 2**30, "reserve_bytes": 2**30, "least_bytes": 2**31})
    '1,024 MiB free; nothing is taken in below 2,048 MiB'
    """
    free, least = spool["free_bytes"], spool["least_bytes"]
    if free is not None and least is not None and free < least:
        return f"{_mib(free)} free; nothing is taken in below {_mib(least)}"
    return f"{_mib(free)} free, {_mib(spool['reserve_bytes'])} of it the reserve"


def waiting_words(line: Waiting) -> str:
    """Why some reports to a destination wait, in one line.

    >>> waiting_words(Waiting("pacs", Why.LEFT_ALONE, 3, "'pacs' can't be reached: nobody listens there", 200.0, 40.0))
    "  3 wait: 'pacs' can't be reached: nobody listens there; for 3 min 20 s; next attempt in 40 s"
    >>> waiting_words(Waiting("pacs", Why.DEAD, 3, "status 0xa900", 200.0, None))
    '  3 dead: status 0xa900; mend that, then `trabecula retry --destination pacs`'
    """
    lasting = f"for {_duration(line.since_s)}"
    soon = f"in {_duration(line.next_s)}" if line.next_s else "now"
    detail = line.detail or "no answer was written down"
    told = {
        Why.NOT_CONFIGURED: "wait: the configuration has no destination of this name",
        Why.NOBODY_SENDS: f"wait: no process sends them{f'; the last one said: {detail}' if line.detail else ''}",
        Why.LEFT_ALONE: f"wait: {detail}; {lasting}; next attempt {soon}",
        Why.REFUSED: f"refused: {detail}" + (f"; next attempt {soon}" if line.next_s is not None else ""),
        Why.IN_TURN: f"in turn, {lasting} at most",
        Why.NOT_COMMITTED: f"sent and not committed to: {detail}" + (f"; asked {soon}" if line.next_s else ""),
        Why.DEAD: f"dead: {detail}; mend that, then `trabecula retry --destination {line.destination}`",
    }
    return f"  {line.objects} {told[line.why]}"


def backfill_words(line: BackfillLine) -> str:
    """How far an order is, in one line."""
    series = _counted(line.series) or "no series yet"
    parts = [series, f"{line.instances:,} instances, {_mib(line.size_bytes)}"]
    if line.series_per_hour is not None:
        parts.append(f"{line.series_per_hour:,.0f} series an hour")
    if line.seconds_left:
        parts.append(f"about {_duration(line.seconds_left)} left")
    doing = "" if line.state == "done" else line.detail if line.is_running else "no process works on it"
    if line.state == "paused":
        doing = "paused by a person" if line.is_running else f"paused by a person; {doing}"
    state = doing or str(line.state)
    return "; ".join([*parts, state])


def backfill_tables(lines: Iterable[BackfillLine]) -> RenderableType:
    """All orders."""
    parts: list[RenderableType] = []
    for line in lines:
        parts += [Text(f"{line.id}  {line.archive}: {line.said}", "bold"), Text(f"   {backfill_words(line)}")]
        if line.skipped:
            parts.append(Text(f"   skipped: {_counted(line.skipped)}"))
        if line.dead:
            parts.append(Text(f"   dead: {_counted(line.dead)}", "yellow"))
        parts.append(Text(f"   parts: {_counted(line.parts) or 'none yet'}"))
    return Group(*parts) if parts else Text("no orders yet")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def estimate_table(found: Estimate) -> Table:
    """What an order would bring."""
    table = _table("", "")
    table.show_header = False
    failed = f"; {found.parts_failed} could not be searched" if found.parts_failed else ""
    skipped = ", ".join(f"{count} {reason}" for reason, count in found.not_wanted.most_common())
    table.add_row("parts", f"{found.parts_searched} searched{failed}")
    table.add_row("studies", f"{found.studies:,}")
    table.add_row("series wanted", f"at most {found.wanted:,}, {found.instances:,} instances")
    table.add_row("series not wanted", f"{found.not_wanted.total():,}{f' ({skipped})' if skipped else ''}")
    table.add_row("size", f"about {_mib(found.size_bytes)}, uncompressed")
    source = "as measured here before" if found.measured else "assumed, as nothing was fetched from there yet"
    rate = f"{found.slices_a_second:,.3g} slices a second over each of {found.associations} associations, {source}"
    table.add_row("time", f"about {_duration(found.seconds)}, pauses not counted; at {rate}")
    return table


def study_tables(study: StudyExplained) -> RenderableType:
    """Which series was chosen and why not the others, and what came out."""
    head = (
        f"study {study.study_instance_uid}: {study.state}, revision {study.revision}; patient key {study.patient_key}"
    )
    parts: list[RenderableType] = [Text(head)]
    for series in study.series:
        parts += [Text(f"\nseries {series.series_instance_uid}", "bold"), _series_table(series)]
        if series.lines:
            parts.append(lines_table(series.lines))
    return Group(*parts)


def lines_table(lines: Iterable[ResultLine]) -> RenderableType:
    """Levels with their numbers, the patient's first."""
    shown = tuple(lines)
    table = _table("level", "HU", "BMD mg/cm3", "class", "reason")
    for line in shown:
        level = line.level or "patient"
        table.add_row(level, _number(line.attenuation_mean), _number(line.volumetric_bmd), line.finding, line.reason)
    if any(line.reference_only for line in shown):
        return Group(table, Text(NOT_FOR_DIAGNOSIS, "yellow"))
    return table


def folder_tables(outcome: Mapping[str, Any]) -> RenderableType:
    """What `analyse` found, series by series."""
    files = outcome["files"]
    refused = sum(files["refused"].values())
    told = f"{files['found']} files: {files['not_dicom']} no DICOM, {files['repeated']} repeated, {refused} refused"
    reasons = ", ".join(f"{count} {reason}" for reason, count in files["refused"].items())
    parts: list[RenderableType] = [Text(f"{told} ({reasons})" if reasons else told)]
    series = _table("series", "slices", "outcome", "reason", "detail")
    for entry in outcome["series"]:
        uid, detail = entry["series_instance_uid"], entry["detail"]
        series.add_row(uid, str(entry["instances"]), entry["outcome"], entry["reason"], Text(detail))
    if outcome["series"]:
        parts.append(series)
    analysed = [entry for entry in outcome["series"] if entry["result"] is not None]
    for entry in analysed:
        parts += [Text(f"\nseries {entry['series_instance_uid']}", "bold"), _result_table(entry)]
    if any(entry["result"]["reference_only"] for entry in analysed):
        parts.append(Text(NOT_FOR_DIAGNOSIS, "yellow"))
    return Group(*parts)


def _result_table(entry: Mapping[str, Any]) -> Table:
    table = _table("level", "HU", "BMD mg/cm3", "class", "flags")
    result = entry["result"]
    for site in [*result["levels"], {"level": "patient", "quality_flags": result["quality_flags"]} | result["patient"]]:
        values = {name: measurement["value"] for name, measurement in site["measurements"].items()}
        flags = ", ".join(flag["reason"] for flag in site["quality_flags"])
        numbers = (_number(values.get(name)) for name in ("attenuation_mean", "volumetric_bmd"))
        table.add_row(site["level"], *numbers, site["finding"], flags)
    return table


def _series_table(series: SeriesExplained) -> Table:
    table = _table("", "")
    table.show_header = False
    chosen = {None: "not decided yet", True: "yes", False: "no"}[series.selected]
    kernel = ", ".join(series.convolution_kernel) or "not said"
    thickness = "not said" if series.slice_thickness is None else f"{series.slice_thickness:g} mm"
    sent: dict[str, list[str]] = {}
    for kind, destination, state, detail in series.objects:
        sent.setdefault(f"{destination}: {state}{f' ({detail})' if detail else ''}", []).append(kind)
    rows = [
        ("images", f"{series.instances}, {series.modality or '?'}, {thickness}, kernel {kernel}"),
        ("chosen", chosen if series.score is None else f"{chosen} (score {series.score:g})"),
        ("state", f"{series.state}, revision {series.revision}"),
        ("reason", f"{series.reason}: {series.detail}" if series.reason else ""),
        ("job", f"{series.job}; attempts: {series.attempts}" if series.job else ""),
        ("reports", "; ".join(f"{', '.join(kinds)} to {where}" for where, kinds in sent.items())),
    ]
    for name, value in rows:
        if value:
            table.add_row(name, Text(value))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        numeric = column in ("HU", "BMD mg/cm3", "slices")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _mib(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes / 2**20:,.0f} MiB"


def _duration(seconds: float | None) -> str:
    """Rough, as a person would say it.

    >>> _duration(5000)
    '1 h 23 min'
    """
    if seconds is None:
        return "nothing waits"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
