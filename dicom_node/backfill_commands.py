"""
The commands of `trabecula backfill`: read an archive from the past into the queue, and steer that while it runs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from db import backfill, progress
from db.progress import BackfillLine
from db.schema import BackfillState
from dicom_node import console, node
from dicom_node.backfill.estimate import Estimate, estimate
from dicom_node.backfill.order import Order, archive_source, read_csv
from dicom_node.backfill.source import Source
from dicom_node.config import NodeConfig
from dicom_node.invocation import AsJson, ConfigFile, configured, known_database, node_process, remembered
from dicom_node.pseudonyms import key_of_database
from engine.errors import BadOption, DeploymentError

app = typer.Typer(no_args_is_help=True)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count, and estimate; nothing is fetched.")]
Number = Annotated[int, typer.Argument(metavar="NUMBER", help="Of the order, as `backfill list` shows it.")]


@app.command("folder")
def folder_(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="PATH", help="A folder tree, or the file DICOMDIR of a medium.")],
    dry_run: DryRun = False,
    config: ConfigFile = None,
) -> None:
    """Take in the series of a folder tree or a DICOMDIR that a program can use."""
    from dicom_node.backfill.files import file_source

    _, options = node_process(context, config)
    if not source.exists():
        raise BadOption("there is no such folder or file")
    _go(options, lambda key: file_source(source, key, options.selection), dry_run)


@app.command("archive")
def archive_(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help=r"An archive of the configuration, \[\[backfill.archives]].")
    ],
    since: Annotated[str, typer.Option("--since", metavar="DATE", help="First day of the studies, YYYY-MM-DD.")] = "",
    until: Annotated[str, typer.Option("--until", metavar="DATE", help="Last day. Without one: --since alone.")] = "",
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Instead of days: a column AccessionNumber or StudyInstanceUID."),
    ] = None,
    modality: Annotated[
        str | None, typer.Option("--modality", help="Of the studies. Without one: CT for days, any for a list.")
    ] = None,
    description: Annotated[
        str,
        typer.Option(
            "--description", metavar="PATTERN", help="Study or series is described so; * and ? stand for more."
        ),
    ] = "",
    dry_run: DryRun = False,
    config: ConfigFile = None,
) -> None:
    """Fetch the series of an archive that a program can use, by C-FIND and C-GET or C-MOVE, or by DICOMweb."""
    _, options = node_process(context, config)
    known = {archive.name: archive for archive in options.backfill.archives}
    if name not in known:
        raise BadOption(f"there is no archive '{name}'; known are: {', '.join(known) or 'none'}")
    identifiers = None if csv is None else read_csv(csv)
    usual = "CT" if csv is None else ""
    wanted = usual if modality is None else modality
    order = Order(_day(since), _day(until) or _day(since), identifiers, wanted, description)
    _go(options, lambda key: archive_source(known[name], order, options.backfill, key, options.selection), dry_run)


@app.command("list")
def list_(context: typer.Context, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show all orders: what they are of, how far they are, how fast they go on."""
    _, options = configured(context, config)
    with remembered(options) as database, database.read() as connection:
        lines = progress.backfills(connection)
    if as_json:
        import json

        typer.echo(json.dumps([asdict(line) for line in lines], indent=2))
    else:
        Console().print(console.backfill_tables(lines))


@app.command()
def pause(context: typer.Context, number: Number, config: ConfigFile = None) -> None:
    """Let an order rest, wherever it runs; what it is fetching is left where it is."""
    _set_state(context, number, BackfillState.PAUSED, config)


@app.command()
def resume(context: typer.Context, number: Number, config: ConfigFile = None) -> None:
    """Let a paused order go on. One whose process ended goes on when the same order is given again."""
    _set_state(context, number, BackfillState.OPEN, config)


@app.command()
def retry(context: typer.Context, number: Number, config: ConfigFile = None) -> None:
    """Try again the series of an order that failed too often."""
    _, options = configured(context, config)
    with remembered(options) as database, database.begin() as connection:
        again = backfill.retry(connection, number)
    typer.echo(f"tried again: {again}; give the order again if its process has ended")


def _set_state(context: typer.Context, number: int, state: BackfillState, config: Path | None) -> None:
    _, options = configured(context, config)
    with remembered(options) as database, database.begin() as connection:
        if not backfill.set_state(connection, number, state):
            raise BadOption(f"there is no order {number} that is not done; see 'trabecula backfill list'")


def _go(options: NodeConfig, make_source: Callable[[bytes], Source], dry_run: bool) -> None:
    if dry_run:
        source = make_source(key_of_database(options))
        with _counting() as told:
            found = estimate(source, options.backfill, told, _measured(options, source))
        Console().print(console.estimate_table(found))
        return
    with _progress() as shown:
        state = node.backfill(options, make_source, shown)
    if state is BackfillState.DONE:
        typer.echo("done; 'trabecula backfill list' tells what came of it")
    else:
        typer.echo("stopped; the same command goes on where it was")


def _measured(options: NodeConfig, source: Source) -> float | None:
    """How fast series came from an archive before; None: there is no database that knows."""
    try:
        with known_database(options) as database, database.read() as connection:
            return progress.measured_rate(connection, source.name)
    except DeploymentError:
        return None


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise BadOption(f"a day is written YYYY-MM-DD, not '{text}'") from None


@contextmanager
def _progress() -> Iterator[Callable[[BackfillLine], None]]:
    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"))
    screen = Console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("searching", total=None)

        def shown(line: BackfillLine) -> None:
            waiting = line.series.get("waiting", 0) + line.series.get("fetching", 0)
            ended = line.series.get("done", 0) + line.series.get("dead", 0)
            bar.update(task, description=console.backfill_words(line), completed=ended, total=ended + waiting or None)

        yield shown


@contextmanager
def _counting() -> Iterator[Callable[[Estimate], None]]:
    screen = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    ) as bar:
        task = bar.add_task("searching", total=None)
        yield lambda found: bar.update(task, description=f"{found.parts_searched} of {found.parts} parts searched")
