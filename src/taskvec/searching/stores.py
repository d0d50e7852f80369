"""A store keeps the lines of a journal in memory, in a file or in a database. Lines are only ever added at the end.

One process at a time holds `locked()`. Within it, `lines()` is all that any process has written so far, and `append`
adds a line after these.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from taskvec.errors import FormatError, MissingExtra, OutputError
from taskvec.places.local import stated
from taskvec.places.moving import sync
from taskvec.searching.entries import Line

try:
    import fcntl
except ImportError:  # no locks: one process a journal
    fcntl = None  # type: ignore[assignment]

URL = re.compile(r"^[a-z0-9+]+://")
UNNAMED = "search"  # the name of a journal in a database whose URL says none
BACKENDS = ("postgresql", "sqlite")
TABLE, LOCK, PATIENCE = "taskvec_journal", 0x7461736B, 60.0  # the lock's key; seconds to wait for SQLite's


class Store(Protocol):
    """Lines that several processes may add to."""

    shared: bool  # whether other processes can see it

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes meanwhile."""

    def lines(self) -> list[Line]:
        """All of them."""

    def append(self, line: Line) -> None:
        """One more, on the disk on return."""


def store_of(where: str | os.PathLike[str] | None) -> Store:
    """Memory for None, a database for a URL, else a file."""
    if where is None:
        return Memory()
    text = os.fspath(where)
    return Table(text) if URL.match(text) else File(Path(text))


class Memory:
    """Gone with the process."""

    shared = False

    def __init__(self) -> None:
        self._lines: list[Line] = []

    def __str__(self) -> str:
        return "memory"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """There is nobody else."""
        yield

    def lines(self) -> list[Line]:
        """All of them."""
        return self._lines

    def append(self, line: Line) -> None:
        """One more."""
        self._lines.append(line)


class File:
    """A line of JSON each. What a kill or a full disk left of one is cut off by whoever writes next."""

    shared = True

    def __init__(self, path: Path):
        self.path = path
        self._read: list[Line] = []
        self._size, self._fd = 0, -1

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The file is made if it is not there."""
        with stated(self.path, OutputError):
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(self._fd)

    def lines(self) -> list[Line]:
        """What is whole; read from where it was last read to."""
        with stated(self.path, FormatError):
            size = os.fstat(self._fd).st_size
            if size < self._size:
                raise FormatError(f"{self.path} became shorter while it was in use")
            data = os.pread(self._fd, size - self._size, self._size)
        whole = data[: data.rfind(b"\n") + 1]
        if data and not whole and not self._read and not _begins_a_journal(data):
            raise FormatError(f"{self.path} is no journal: take another name, or remove it")
        self._read += parsed(str(self), whole.splitlines(), len(self._read) + 1)
        self._size += len(whole)
        return self._read

    def append(self, line: Line) -> None:
        """Behind what others wrote."""
        self.lines()
        text = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with stated(self.path, OutputError):
            try:
                os.ftruncate(self._fd, self._size)  # what a kill left of a line
                done = 0
                while done < len(text):
                    done += os.pwrite(self._fd, text[done:], self._size + done)
                sync(self._fd)
            except OSError:
                os.ftruncate(self._fd, self._size)
                raise
        self.lines()


class Table:
    """Rows of a table, for machines that share no folder: "postgresql://user@host/base#name", "sqlite:///file.db#name".

    Several journals stand in one table, by their names. By SQLAlchemy (the extra `search`; PostgreSQL: `postgresql`).
    """

    shared = True

    def __init__(self, url: str):
        try:
            import sqlalchemy
        except ImportError:
            raise MissingExtra("a journal in a database", "search") from None
        address, _, name = url.partition("#")
        self._sql, self.name, self.text = sqlalchemy, name or UNNAMED, "the database"
        self._read: list[Line] = []
        self._last = 0
        with self._stated():
            made = sqlalchemy.make_url(address)
            self.text = f"{made.render_as_string(hide_password=True)}#{self.name}"
            if made.get_backend_name() not in BACKENDS:
                raise OutputError(f"{self.text}: journals are kept in {' and '.join(BACKENDS)}")
            self._sqlite = made.get_backend_name() == "sqlite"
            if made.drivername == "postgresql":
                made = made.set(drivername="postgresql+psycopg")
            options = {"isolation_level": None, "timeout": PATIENCE} if self._sqlite else {}  # transactions are ours
            self._engine = sqlalchemy.create_engine(made, connect_args=options)
        kind = "INTEGER PRIMARY KEY AUTOINCREMENT" if self._sqlite else "BIGSERIAL PRIMARY KEY"
        with self.locked():
            self._run(f"CREATE TABLE IF NOT EXISTS {TABLE} (id {kind}, name TEXT NOT NULL, line TEXT NOT NULL)")

    def __str__(self) -> str:
        return self.text

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A transaction that others wait for."""
        with self._stated(), self._engine.connect() as self._connection:
            if self._sqlite:
                self._connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                self._run("SELECT pg_advisory_xact_lock(:key)", key=LOCK)
            yield
            self._connection.commit()

    def lines(self) -> list[Line]:
        """All of this journal's; read from where it was last read to."""
        about = {"name": self.name, "last": self._last}
        found = self._run(f"SELECT id, line FROM {TABLE} WHERE name = :name AND id > :last ORDER BY id", **about)
        rows = found.fetchall()
        self._read += parsed(
            self.text, [str(text).encode("utf-8", "surrogatepass") for _, text in rows], len(self._read) + 1
        )
        self._last = rows[-1][0] if rows else self._last
        return self._read

    def append(self, line: Line) -> None:
        """There for all when the lock is given back."""
        text = json.dumps(line, separators=(",", ":"))
        self._run(f"INSERT INTO {TABLE} (name, line) VALUES (:name, :text)", name=self.name, text=text)
        self.lines()

    def _run(self, statement: str, **values: Any) -> Any:
        return self._connection.execute(self._sql.text(statement), values)

    @contextmanager
    def _stated(self) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise MissingExtra(f"a journal in this database ({error})", "postgresql") from None
        except self._sql.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise OutputError(f"{self.text}: {str(cause).strip().splitlines()[0]}") from None


def _begins_a_journal(data: bytes) -> bool:
    """Whether a file without a whole line may be what a kill left of a first one; whatever else it is, it is kept."""
    begins = (b'{"search":', b'{"interference":')
    return any(data.startswith(b) or b.startswith(data) for b in begins)


def parsed(where: str, texts: Iterable[bytes], first: int) -> list[Line]:
    """Whole lines of JSON, the first of them the journal's line `first`. Raises FormatError."""
    found = []
    for number, text in enumerate(texts, first):
        try:
            line = json.loads(text.decode())
            if not isinstance(line, dict):
                raise ValueError("it is no object")
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{where}, line {number}: no line of a journal ({error})") from None
        found.append(line)
    return found
