"""
The commands that ask the archive as a whole: query, cohort, agreement, report, export; and who may ask.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from db.connection import Database
from db.population import export, query, views
from db.population.query import Answer, Criteria
from dicom_node.config import NodeConfig
from dicom_node.invocation import ConfigFile, configured, remembered
from dicom_node.population import agreement, agreement_page, fhir, omop, page, reference, report, tables
from dicom_node.pseudonyms import key_of_database
from engine.errors import BadOption, DeploymentError

SHOWN = 100  # rows on the screen without --limit; our choice

Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write a file: .csv or .parquet. Without: show.")
]
References = typer.Option("--reference", metavar="FILE", help="CSV of reference values (docs/agreement.md).")


def add_to(app: typer.Typer) -> None:
    """Make them commands of the program."""
    for name, command in (
        ("query", query_),
        ("cohort", cohort),
        ("agreement", agreement_),
        ("report", report_),
        ("export", export_),
        ("densitometry", densitometry),
        ("grant", grant),
    ):
        app.command(name)(command)


def query_(
    context: typer.Context,
    question: Annotated[
        str, typer.Argument(metavar="[VIEW|SQL]", help="A view, or one SELECT. Without: the views are listed.")
    ] = "",
    output: Output = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="So many rows at most.")] = None,
    config: ConfigFile = None,
) -> None:
    """Answer a view or any SELECT as a table, CSV or Parquet. Can change nothing."""
    if not question:
        Console().print(
            tables.on_screen(("view", "answers"), [(name, views.answer(name)) for name in views.definitions()])
        )
        return
    _, options = configured(context, config)
    with remembered(options, read_only=True) as database:
        answer = query.ask(database, question, limit if output or limit else SHOWN + 1)
    _give(answer, output, limit)


def cohort(
    context: typer.Context,
    sex: Annotated[str | None, typer.Option("--sex", help="F, M or O.")] = None,
    age: Annotated[str, typer.Option("--age", metavar="FROM-TO", help="Years, both included: 50-80, 50-, -49.")] = "",
    since: Annotated[str | None, typer.Option("--since", metavar="YYYYMMDD", help="First day of the CT.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="YYYYMMDD", help="Last day of the CT.")] = None,
    finding: Annotated[str | None, typer.Option("--finding", help="normal, osteopenia or osteoporosis.")] = None,
    manufacturer: Annotated[str | None, typer.Option("--manufacturer", help="Of the scanner, as DICOM has it.")] = None,
    kvp: Annotated[float | None, typer.Option("--kvp", help="Tube voltage.")] = None,
    output: Output = None,
    config: ConfigFile = None,
) -> None:
    """One row a patient: the latest density, by criteria; with a short description of who they are."""
    youngest, oldest = _ages(age)
    criteria = Criteria(
        patient_sex=sex,
        youngest=youngest,
        oldest=oldest,
        since=since,
        until=until,
        finding=finding,
        manufacturer=manufacturer,
        kvp=kvp,
    )
    _, options = configured(context, config)
    with remembered(options, read_only=True) as database:
        answer = query.cohort(database, criteria)
    _give(answer, output, None)
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    ages = sorted(row["patient_age"] for row in rows if row["patient_age"] is not None)
    middle = f", median age {ages[len(ages) // 2]} ({ages[0]} to {ages[-1]})" if ages else ""
    typer.echo(f"{len(rows)} patients{middle}; {_counted(rows, 'patient_sex')}; {_counted(rows, 'finding')}")


def agreement_(
    context: typer.Context,
    references: Annotated[Path, References],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="agreement.html, agreement.json, pairs.csv.")
    ] = None,
    within: Annotated[
        int, typer.Option("--within", min=0, metavar="DAYS", help="CT and reference of a patient lie so near.")
    ] = agreement.WITHIN_DAYS,
    config: ConfigFile = None,
) -> None:
    """Hold the results against a site's own reference values: errors, limits of agreement, AUC, confusion tables."""
    _, options = configured(context, config)
    with remembered(options, read_only=True) as database:
        found = _agreements(database, options, references, within)
    console = Console()
    for one in found:
        console.print(f"\n{one.quantity} against {one.reference}: {len(one.pairs)} pairs", style="bold")
        for why, count in one.unmatched.items():
            console.print(f"  without a pair: {count}, {why}")
        if one.pairs:
            console.print(tables.on_screen(("", agreement_page.UNITS[one.reference]), agreement_page.summary_rows(one)))
        if one.detections:
            shown = [row[:8] for row in agreement_page.detection_rows(one)]
            console.print(tables.on_screen(agreement_page.DETECTION_COLUMNS[:8], shown))
    if output is not None:
        _write_agreements(found, output)
        typer.echo(f"written: {output / 'agreement.html'}")


def report_(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page, one HTML file.")] = Path(
        "report.html"
    ),
    references: Annotated[Path | None, References] = None,
    config: ConfigFile = None,
) -> None:
    """Write the report of the archive: intake, flow diagram, densities, prevalence, scanners, agreement, failures."""
    _, options = configured(context, config)
    with remembered(options, read_only=True) as database:
        found = _agreements(database, options, references, agreement.WITHIN_DAYS) if references else ()
        text = report.report(database, options.vertebral.policy, found)
    with tables.aside(output) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    typer.echo(f"written: {output}")


def export_(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made where missing.")],
    form: Annotated[str, typer.Option("--form", help="parquet, fhir or omop.")] = "parquet",
    config: ConfigFile = None,
) -> None:
    """Write all results for others: Parquet (a file a table), FHIR Observations, OMOP-style tables."""
    if form not in ("parquet", "fhir", "omop"):
        raise BadOption(f"there is no form '{form}'; there are parquet, fhir and omop")
    _, options = configured(context, config)
    with remembered(options, read_only=True) as database:
        if form == "parquet":
            written = export.export_parquet(options.database, folder)
        elif form == "omop":
            written = omop.write_tables(database, folder)
        else:
            written = {"Observation": fhir.write_observations(database, folder / "Observation.ndjson")}
    for name, count in written.items():
        typer.echo(f"{name}: {count} rows")


def densitometry(
    context: typer.Context,
    table: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="CSV with patient_id, date; perhaps issuer_of_patient_id, kind."),
    ],
    config: ConfigFile = None,
) -> None:
    """Take in who had a bone densitometry when, so that the worklist leaves them out."""
    _, options = configured(context, config)
    known = reference.read_examinations(table, _key(options))
    with remembered(options) as database, database.begin() as connection:
        added = query.keep_densitometries(connection, known)
    typer.echo(f"{added} examinations added, {len(set(known)) - added} known before")


def grant(
    context: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="Made, without login, where missing.")],
    config: ConfigFile = None,
) -> None:
    """Let a role of PostgreSQL read the views and results, and nothing else."""
    _, options = configured(context, config)
    with remembered(options) as database, database.begin() as connection:
        query.grant_reader(connection, role)
    typer.echo(
        f"role {role} may read {len(query.READABLE)} tables and {len(views.definitions())} views, and write nothing"
    )


def _key(config: NodeConfig) -> bytes:
    """The site's key; a new one, or another, would match nobody."""
    if not Path(config.pseudonym_key_file).is_file():
        raise DeploymentError("there is no key of the pseudonyms, so no patient ID can be matched; --config names it")
    return key_of_database(config)


def _agreements(database: Database, config: NodeConfig, path: Path, within: int) -> tuple[agreement.Agreement, ...]:
    rows = reference.read_references(path, _key(config))
    return agreement.agreements(database, rows, config.vertebral.policy, within)


def _write_agreements(found: tuple[agreement.Agreement, ...], folder: Path) -> None:
    warning = report.NOT_FOR_CLINICAL_USE if any(one.reference_only for one in found) else ""
    parts = [(one.quantity, agreement_page.part(one)) for one in found]
    said = {
        "agreement.html": page.page("Agreement with references", "All on this site's own data.", parts, warning),
        "agreement.json": json.dumps([agreement_page.as_json(one) for one in found], indent=2) + "\n",
    }
    for name, text in said.items():
        with tables.aside(folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    tables.write(agreement_page.pairs_table(found), folder / "pairs.csv")


def _give(answer: Answer, output: Path | None, limit: int | None) -> None:
    if output is not None:
        tables.write(answer, output)
        typer.echo(f"written: {output}, {len(answer.rows)} rows")
        return
    shown = answer.rows[: limit or SHOWN]
    console = Console()
    console.print(tables.in_width(answer.columns, shown, console.width))
    if len(answer.rows) > len(shown):
        typer.echo(f"the first {len(shown)} rows; --limit shows more, --output writes all")


def _ages(text: str) -> tuple[int | None, int | None]:
    low, found, high = text.partition("-")
    try:
        youngest, oldest = (int(part) if part.strip() else None for part in (low, high if found else low))
    except ValueError:
        raise BadOption("--age is FROM-TO in years, such as 50-80, 50- or -49") from None
    return youngest, oldest


def _counted(rows: list[dict[str, object]], column: str) -> str:
    counts = Counter(str(row[column] or f"{column} not said") for row in rows)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or f"no {column}"
