"""
What every command begins with: its configuration, its logs, the database of a node that ran already.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from db import migrate
from db.connection import Database, is_missing, open_database
from dicom_node.config import NodeConfig, read_config
from dicom_node.logs import LogOptions, configure_logs
from dicom_node.process import stop_with_parent
from engine.errors import DeploymentError

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The node's configuration (TOML). Without one: the defaults."),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")]


def configured(context: typer.Context, config: Path | None) -> tuple[Path | None, NodeConfig]:
    """The command's own --config, or the one before the command."""
    path = config or context.obj
    return path, read_config(path)


def node_process(
    context: typer.Context, config: Path | None, supervised: bool = False
) -> tuple[Path | None, NodeConfig]:
    """The same for a command that is a process of the node: with its logs."""
    path, options = configured(context, config)
    configure_logs(options.logs)
    if supervised:
        stop_with_parent()
    return path, options


@contextmanager
def remembered(config: NodeConfig, *, read_only: bool = False) -> Iterator[Database]:
    """The database of a node that ran already, for a command that is no process of the node: with its own quiet logs.

    Args:
        read_only: it is opened so that it can't be changed.
    """
    configure_logs(LogOptions(level="ERROR"))
    with known_database(config, read_only=read_only) as database:
        yield database


@contextmanager
def known_database(config: NodeConfig, *, read_only: bool = False) -> Iterator[Database]:
    """The database of a node that ran already; looking at none must not make one."""
    if is_missing(config.database):
        raise DeploymentError("there is no database yet; 'trabecula run' makes it, or --config names another")
    with closing(open_database(config.database, read_only=read_only)) as database:
        migrate.check(database)
        yield database
