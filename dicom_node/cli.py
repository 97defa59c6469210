"""
The command line. Each command reads one configuration, does one thing, and says in plain words what went wrong.

Exit status: 0 done; 1 the answer is no (doctor, explain); 2 a person must act on this machine, or the command was not
understood; 3 nothing that can be analysed; 70 a fault of ours; 75 what was in the way may pass.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from typer.core import TyperGroup

from db import outbox, overview, progress, queue, waiting
from db.connection import Database
from dicom_node import backfill_commands, console, doctor, folder, node, process, process_commands
from dicom_node.config import NodeConfig
from dicom_node.invocation import AsJson, ConfigFile, configured, remembered
from dicom_node.logs import LogOptions, configure_logs
from dicom_node.pseudonyms import key_of_database
from dicom_node.spool import MIB, Spool
from dicom_node.worker import place_of
from engine.errors import BadOption, DatabaseUnavailable, DeploymentError
from engine.records import Reason

NO, DEPLOYMENT, NOTHING_TO_ANALYSE = 1, process.DEPLOYMENT_ERROR, 3
DEBUG = "TRABECULA_DEBUG"


ORDER = (
    *("run", "receive", "work", "send", "analyse", "backfill"),
    *("status", "retry", "clear", "doctor", "explain"),
    *("query", "cohort", "agreement", "report", "export", "densitometry", "grant", "version"),
)
"""Of the commands in the help, as in docs/cli.md."""


class Commands(TyperGroup):
    """Says errors in one line; a trace is for who asks for it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """What runs the node first, what asks it last."""
        return sorted(super().list_commands(ctx), key=ORDER.index)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Parse, call, and end with a status."""
        try:
            return super().main(*args, **kwargs)
        except DatabaseUnavailable as error:  # at a machine's start it may come later than we do
            _say(str(error))
            sys.exit(os.EX_TEMPFAIL)
        except DeploymentError as error:
            _say(str(error))
            sys.exit(DEPLOYMENT)
        except Exception as bug:  # its words may quote a header
            if os.environ.get(DEBUG):
                raise
            _say(f"{type(bug).__name__} in {place_of(bug)}: a fault of this program; {DEBUG}=1 shows the whole trace")
            sys.exit(os.EX_SOFTWARE)


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(backfill_commands.app, name="backfill", help="Read an archive from the past, series by series.")


PROCESSES = frozenset({"receive", "work", "send"})


def _add_population_commands() -> None:
    """Statistics take 30 MB and are for people; a process that runs for weeks, one of many, goes without."""
    if not PROCESSES.intersection(sys.argv[1:]) or ("--supervised" not in sys.argv and sys.argv[-1] not in PROCESSES):
        from dicom_node import population_commands

        population_commands.add_to(app)


_add_population_commands()
process_commands.add_to(app)


@app.callback()
def _root(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            envvar="TRABECULA_CONFIG",
            help="The node's configuration (TOML), for every command. Without one: the defaults, in this folder.",
        ),
    ] = None,
) -> None:
    """Bone density that lies unread in CT archives: CT series in, DICOM SR and SQL rows out."""
    context.obj = config


@app.command()
def analyse(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="Searched with all folders in it, for DICOM files.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where result.json and reports go.")],
    config: ConfigFile = None,
) -> None:
    """Analyse a folder of CT: no network, no database. Writes result.json, SR, SEG and picture."""
    path, options = configured(context, config)
    configure_logs(LogOptions(level="ERROR"))
    key = None if path is None else key_of_database(options)
    with _progress() as bar:
        task = bar.add_task("")

        def told(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total or None)

        outcome = folder.analyse_folder(source, output, options, key, told)
    out = Console()
    out.print(console.folder_tables(outcome))
    out.print(f"written: {output / 'result.json'}", soft_wrap=True)
    if not any(entry["outcome"] == "analysed" for entry in outcome["series"]):
        raise typer.Exit(NOTHING_TO_ANALYSE)


@app.command()
def status(
    context: typer.Context,
    config: ConfigFile = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how many studies, series, jobs and reports there are, and what waits."""
    _, options = configured(context, config)
    with remembered(options) as database:
        if as_json:
            counts, spool, backfills, waits = _status(database, options)
            told = {"spool": spool, "backfills": list(map(asdict, backfills)), "waiting": list(map(asdict, waits))}
            typer.echo(json.dumps(asdict(counts) | told, indent=2))
        elif watch:
            with (
                suppress(KeyboardInterrupt),
                Live(console.status_tables(*_status(database, options)), auto_refresh=False) as live,
            ):
                while True:
                    time.sleep(1.0)
                    live.update(console.status_tables(*_status(database, options)), refresh=True)
        else:
            Console().print(console.status_tables(*_status(database, options)))


@app.command()
def retry(
    context: typer.Context,
    uid: Annotated[str, typer.Argument(metavar="[UID]", help="A study or a series. None: all that failed.")] = "",
    reason: Annotated[str, typer.Option("--reason", help="All series that were set aside for this reason.")] = "",
    destination: Annotated[str, typer.Option("--destination", help="Dead letters to this destination.")] = "",
    config: ConfigFile = None,
) -> None:
    """Try again what failed: analyses that gave up, and reports that a destination refused too often."""
    if sum(map(bool, (uid, reason, destination))) > 1:
        raise BadOption("retry takes a UID, or --reason, or --destination; not two of them")
    _, options = configured(context, config)
    if reason and reason not in set(Reason):
        raise BadOption(f"there is no reason '{reason}'; docs/reasons.md lists all")
    with remembered(options) as database, database.begin() as connection:
        series = objects = 0
        if destination:
            objects = outbox.retry(connection, destination)
            known = {each.name for each in options.sender.destinations} | overview.counts(
                connection
            ).destinations.keys()
            if destination not in known:
                raise BadOption(
                    f"there is no destination '{destination}'; there are: {', '.join(sorted(known)) or 'none'}"
                )
        elif reason:
            series = queue.retry(connection, reason=Reason(reason))
        elif uid:
            study = overview.explain(connection, uid)
            members = [one.series_instance_uid for one in study.series] if study else [uid]
            series = sum(queue.retry(connection, one) for one in members)
            if not series:
                _say("nothing under this UID failed and has its files still; `trabecula explain` tells of a study")
        else:
            series, objects = queue.retry(connection), outbox.retry(connection)
    typer.echo(f"tried again: {series} series, {objects} reports")


@app.command()
def clear(context: typer.Context, config: ConfigFile = None) -> None:
    """Clear from the spool what is finished, by the ages of the configuration; a running node does it by itself."""
    _, options = configured(context, config)
    with remembered(options) as database, Spool(options.spool) as spool:
        cleared = node.clearer_of(database, spool, options).clear()
    size_mib = cleared.size_bytes // MIB
    typer.echo(f"cleared: received files of {cleared.series} series, reports of {cleared.reports}, {size_mib} MiB")


@app.command("doctor")
def doctor_(
    context: typer.Context,
    config: ConfigFile = None,
    echo: Annotated[
        bool,
        typer.Option(
            "--echo", help="Ask each destination and archive whether it is there and offers what is needed of it."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look whether this machine can do the work, and say what is wrong. Changes nothing."""
    _, options = configured(context, config)
    configure_logs(LogOptions(level="ERROR"))
    checks = list(doctor.examine(options, echo))
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        Console().print(console.checks_table(checks))
    if any(check.state is doctor.State.WRONG for check in checks):
        raise typer.Exit(NO)


@app.command()
def explain(
    context: typer.Context,
    study_uid: Annotated[str, typer.Argument(metavar="STUDY_UID", help="Study Instance UID.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell which series of a study was chosen and why not the others, and what came out."""
    _, options = configured(context, config)
    with remembered(options) as database, database.read() as connection:
        study = overview.explain(connection, study_uid)
    if study is None:
        _say("this study is not known here")
        raise typer.Exit(NO)
    if as_json:
        typer.echo(json.dumps(asdict(study), indent=2))
    else:
        Console().print(console.study_tables(study))


@app.command()
def version() -> None:
    """Show the version of this program; `doctor` shows those of all it stands on."""
    from importlib import metadata

    typer.echo(f"trabecula {metadata.version('trabecula')}")


def main() -> None:
    """The console script."""
    try:
        app()
    except SystemExit as end:
        process.end_if_stages_are_left(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


def _say(line: str) -> None:
    typer.echo(f"trabecula: {line}", err=True)


def _status(
    database: Database, config: NodeConfig
) -> tuple[overview.Counts, dict[str, int | None], tuple[progress.BackfillLine, ...], tuple[waiting.Waiting, ...]]:
    configured = {each.name: each.commitment for each in config.sender.destinations}
    with database.read() as connection:
        counts, backfills = overview.counts(connection), progress.backfills(connection, with_done=False)
        waits = waiting.waiting(connection, configured)
    try:
        disk = os.statvfs(config.spool.folder)
        free: int | None = disk.f_bavail * disk.f_frsize
    except OSError:
        free = None
    least = max(config.spool.reserve_mib, config.receiver.watermark_mib)
    disk_of_spool = {"free_bytes": free, "reserve_bytes": config.spool.reserve_mib * MIB, "least_bytes": least * MIB}
    return counts, disk_of_spool, backfills, waits


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (SpinnerColumn(), TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn())
    screen = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=screen, transient=True, disable=not screen.is_terminal) as bar:
        yield bar
