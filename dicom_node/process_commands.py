"""
The commands that are a node, or a part of one: run, receive, work, send.
"""

from pathlib import Path
from typing import Annotated

import typer

from dicom_node import node, process
from dicom_node.invocation import ConfigFile, node_process
from dicom_node.supervisor import Supervisor

ReadyFile = Annotated[
    Path | None, typer.Option("--ready-file", metavar="FILE", help="Write this JSON file once the work has begun.")
]
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]
UntilIdle = Annotated[bool, typer.Option("--until-idle", help="End as soon as nothing can be done any more.")]


def add_to(app: typer.Typer) -> None:
    """Make them commands of the program."""
    for command in (run, receive, work, send):
        app.command()(command)


def run(context: typer.Context, config: ConfigFile = None, ready_file: ReadyFile = None) -> None:
    """Run a whole node: receiver, workers and sender; what dies is started again."""
    path, options = node_process(context, config)
    arguments = [] if path is None else ["--config", str(path.absolute())]
    told = process.announce("node", ready_file)

    def ready(facts: dict[str, object]) -> None:
        told(facts)
        typer.echo(f"ready: {facts['ae_title']} listens on {facts['host']}, port {facts['port']}")

    Supervisor(options, arguments).run(ready)


def receive(
    context: typer.Context, config: ConfigFile = None, ready_file: ReadyFile = None, supervised: Supervised = False
) -> None:
    """Take CT series in by C-STORE, register them, and close studies that are complete."""
    _, options = node_process(context, config, supervised)
    node.receive(options, process.announce("receive", ready_file))


def work(
    context: typer.Context,
    config: ConfigFile = None,
    until_idle: UntilIdle = False,
    ready_file: ReadyFile = None,
    supervised: Supervised = False,
) -> None:
    """Analyse the series that wait, some at the same time."""
    _, options = node_process(context, config, supervised)
    node.work(options, process.announce("work", ready_file), until_idle)


def send(
    context: typer.Context,
    config: ConfigFile = None,
    until_idle: UntilIdle = False,
    ready_file: ReadyFile = None,
    supervised: Supervised = False,
) -> None:
    """Send the reports that wait to their destinations, by C-STORE or STOW-RS."""
    _, options = node_process(context, config, supervised)
    node.send(options, process.announce("send", ready_file), until_idle)
