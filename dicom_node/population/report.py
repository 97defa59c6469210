"""
The report of a site's archive: what came in, what was left out, what the densities say, how far to trust them.
"""

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from db import overview
from db.connection import Database
from db.population.query import ask
from dicom_node.population import agreement_page, figures, page
from dicom_node.population.agreement import Agreement
from engine.prediction.policy import DensityPolicy
from engine.records import Program

NOT_FOR_CLINICAL_USE = (
    "Numbers in this report rest on reference weights that were trained on phantoms: not for clinical use."
)
MOST_SCANNERS = 6  # our choice: more lines can't be told apart

Row = dict[str, Any]


def report(
    database: Database,
    policy: DensityPolicy,
    agreements: tuple[Agreement, ...] = (),
    program: Program = Program.VERTEBRAL,
) -> str:
    """The page, as HTML."""
    views = {
        name: [row for row in _rows(database, name) if row["program"] == program.value]
        for name in ("flow", "prevalence", "reference_curve", "scanner_drift", "withheld", "repeatability")
    }
    cohort = _rows(
        database, f"SELECT patient_sex, volumetric_bmd, reference_only FROM cohort WHERE program = '{program}'"
    )
    cuts = (policy.osteoporosis_up_to, policy.normal_from)
    parts = [
        ("Intake", _intake(database, views["scanner_drift"])),
        ("Flow diagram", page.flow(_steps(views["flow"]))),
        ("Densities", _densities(cohort, views["reference_curve"], cuts)),
        ("Prevalence", _prevalence(views["prevalence"], policy)),
        ("Scanners", _scanners(views["scanner_drift"])),
        ("Change over time", _change(database, views["repeatability"], program)),
        ("Agreement with references", _agreement(agreements)),
        ("Left out and failed", _left_out(database, views["withheld"])),
    ]
    is_reference = any(row["reference_only"] for row in cohort) or any(one.reference_only for one in agreements)
    said = f"{len(cohort):,} patients with a density; program {program.value}, policy {policy}; {_now()}"
    return page.page("Bone density in the archive", said, parts, NOT_FOR_CLINICAL_USE if is_reference else "")


def _rows(database: Database, question: str) -> list[Row]:
    answer = ask(database, question)
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _intake(database: Database, drift: list[Row]) -> str:
    with database.read() as connection:
        counts = overview.counts(connection)
    monthly: dict[str, int] = defaultdict(int)
    for row in drift:
        monthly[row["study_month"]] += row["results"]
    rows = [
        (name, ", ".join(f"{count:,} {state}" for state, count in states.items()) or "none")
        for name, states in (
            ("studies", counts.studies),
            ("series", counts.series),
            ("jobs", counts.jobs),
            ("reports", counts.outbox),
        )
    ]
    rows.append(("instances", f"{counts.instances:,}, {counts.instance_bytes / 2**30:,.1f} GiB"))
    out = page.table(("", "how many, by state"), rows)
    if monthly:
        months = sorted(monthly)
        drawn = figures.intake(months, [monthly[month] for month in months])
        out += page.figure(drawn, "Results by month of the examination.")
    return out


def _steps(flow: list[Row]) -> list[tuple[str, int, list[tuple[str, int]]]]:
    """What is left at each step, with what was left out after it."""
    steps: list[tuple[str, int, list[tuple[str, int]]]] = []
    for row in sorted(flow, key=lambda row: (row["step"], -row["n"])):
        stage, n = row["stage"], int(row["n"])
        if row["reason"] is not None:
            steps[-1][2].append((f"{stage.removeprefix('series ').removeprefix('results ')}: {row['reason']}", n))
        elif stage in ("series waiting", "series not decided: study is open"):
            if n:
                steps[-1][2].append((stage, n))
        else:
            steps.append((stage, n, []))
    return steps


def _densities(cohort: list[Row], curve: list[Row], cuts: tuple[float, float]) -> str:
    if not cohort:
        return page.paragraph("No patient has a density yet.")
    by_sex: dict[str, list[float]] = defaultdict(list)
    for row in cohort:
        by_sex[row["patient_sex"] or ""].append(row["volumetric_bmd"])
    drawn = figures.distribution(dict(sorted(by_sex.items())), cuts)
    ordered = sorted(curve, key=lambda row: (row["patient_sex"], row["age_decade"]))
    columns = ("patient_sex", "age_decade", "patients", "mean_bmd", "sd_bmd", "p5", "p25", "p50", "p75", "p95")
    return (
        page.figure(drawn, "Each patient's latest density; dotted: the policy's cuts.")
        + page.figure(figures.curve(ordered, cuts), "By decade of age: patients of this archive, not healthy people.")
        + page.table(columns, [[row[name] for name in columns] for row in ordered])
    )


def _prevalence(rows: list[Row], policy: DensityPolicy) -> str:
    low = [row for row in rows if row["finding"] == "osteoporosis" and row["age_decade"] is not None]
    if not low:
        return page.paragraph("No patient has a density yet.")
    low.sort(key=lambda row: (row["patient_sex"] or "", row["age_decade"]))
    shown = [
        (
            row["patient_sex"],
            f"{row['age_decade']} to {row['age_decade'] + 9}",
            row["with_finding"],
            row["patients"],
            f"{100 * row['share']:.1f} ({100 * row['share_low']:.1f} to {100 * row['share_high']:.1f})",
        )
        for row in low
    ]
    return page.figure(
        figures.prevalence(low), f"Share of patients called osteoporosis by {policy}, with Wilson's 95 % interval."
    ) + page.table(("sex", "age", "osteoporosis", "patients", "% (95 % CI)"), shown)


def _scanners(drift: list[Row]) -> str:
    if not drift:
        return page.paragraph("No scanner has a result yet.")
    names = ("manufacturer", "manufacturer_model_name", "station_name", "convolution_kernel", "kvp")
    by_scanner: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in sorted(drift, key=lambda row: row["study_month"]):
        by_scanner[tuple(row[name] for name in names)].append(row)
    most = sorted(by_scanner.items(), key=lambda item: -sum(row["results"] for row in item[1]))
    lines = {
        " ".join(str(part) for part in name[1:4] if part): [
            (row["study_month"], row["mean_attenuation"]) for row in rows if row["mean_attenuation"] is not None
        ]
        for name, rows in most[:MOST_SCANNERS]
    }
    listed = [
        (
            *name,
            sum(row["results"] for row in rows),
            sum(row["densities"] for row in rows),
            rows[0]["scanner_mean_bmd"],
            max((abs(row["z_of_month"]) for row in rows if row["z_of_month"] is not None), default=None),
        )
        for name, rows in most
    ]
    columns = (
        "maker",
        "model",
        "station",
        "kernel",
        "kV",
        "results",
        "densities",
        "mean BMD",
        "largest |z| of a month",
    )
    return page.figure(figures.drift(lines), "Mean HU by month of the scanners with most results.") + page.table(
        columns, listed
    )


def _change(database: Database, repeatability: list[Row], program: Program) -> str:
    counted = _rows(
        database,
        "SELECT verdict, same_scanner, COUNT(*) AS patients, AVG(years) AS years,"
        " AVG(CASE WHEN years >= 1 THEN change_per_year END) AS per_year"
        f" FROM longitudinal_change WHERE program = '{program}' GROUP BY verdict, same_scanner"
        " ORDER BY same_scanner DESC, verdict",
    )
    if not counted:
        return page.paragraph("No patient has two densities yet.")
    rows = [
        (row["verdict"], bool(row["same_scanner"]), row["patients"], row["years"], row["per_year"]) for row in counted
    ]
    known = [(row["pairs"], row["precision_error"], row["least_significant_change"]) for row in repeatability]
    return page.table(
        ("pairs within 90 days, same scanner", "precision error, mg/cm\u00b3", "least significant change"),
        known,
        "The site's own precision; fewer than 30 pairs give no least significant change.",
    ) + page.table(
        (
            "latest against first density",
            "same scanner",
            "patients",
            "mean years",
            "mean change a year, from 1 year on",
        ),
        rows,
    )


def _agreement(agreements: tuple[Agreement, ...]) -> str:
    if not agreements:
        return page.paragraph("No references were given (option --reference).")
    return "".join(agreement_page.part(one) for one in agreements)


def _left_out(database: Database, withheld: list[Row]) -> str:
    with database.read() as connection:
        refusals = overview.counts(connection).refusals
    stages = {
        "selection": "Series that no program reads, or another serves better",
        "analysis": "Series set aside in loading or analysis",
        "density": "Results without a density",
        "vertebra": "Vertebrae without a density",
    }
    out = []
    for stage, caption in stages.items():
        counted = sorted(
            ((row["reason"], row["occurrences"]) for row in withheld if row["stage"] == stage),
            key=lambda item: -item[1],
        )
        if counted:
            out.append(page.figure(figures.reasons(counted, stage), caption))
    if refusals:
        counted = sorted(refusals.items(), key=lambda item: -item[1])
        out.append(page.figure(figures.reasons(counted, "refusal"), "Instances refused at the door"))
    return "".join(out) or page.paragraph("Nothing was left out.")
