"""Runs revisions on the connection that `db.migrate` hands over, inside its transaction."""

from alembic import context


def run() -> None:
    """Take the connection from the configuration; nothing is read from a file."""
    given = context.config.attributes
    context.configure(connection=given["connection"], target_metadata=given["metadata"], render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


if __name__ == "env_py":  # the name under which Alembic loads this file
    run()
