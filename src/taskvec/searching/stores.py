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
except ImportError:  # without locks only one process may use a journal
    fcntl = None  # type: ignore[assignment]

URL = re.compile(r"^[a-z0-9+]+://")
UNNAMED = "search"  # the name of a journal in a database whose URL says none
BACKENDS = ("postgresql", "sqlite")
TABLE = "taskvec_journal"
LOCK = 0x7461736B  # the key of the lock in PostgreSQL
PATIENCE = 60.0  # seconds to wait for the lock of SQLite


class Store(Protocol):
    """Lines that several processes may add to."""

    shared: bool  # whether other processes can see it

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A block in which no other process writes."""

    def lines(self) -> list[Line]:
        """All lines that any process has written. Call it within `locked()`."""

    def append(self, line: Line) -> None:
        """Add a line, which is safely stored on return (a database: when the lock is given back)."""


def store_of(where: str | os.PathLike[str] | None) -> Store:
    """The store of a journal: memory for None, a database for a URL, and otherwise a file."""
    if where is None:
        return Memory()
    text = os.fspath(where)
    return Table(text) if URL.match(text) else File(Path(text))


class Memory:
    """Lines in memory, which are lost when the process ends."""

    shared = False

    def __init__(self) -> None:
        self._lines: list[Line] = []

    def __str__(self) -> str:
        return "memory"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No lock is needed: no other process can see this memory."""
        yield

    def lines(self) -> list[Line]:
        """All lines."""
        return self._lines

    def append(self, line: Line) -> None:
        """Add a line."""
        self._lines.append(line)


class File:
    """Lines of JSON in a file. If a kill or a full disk left a part of a line, the next write cuts it off."""

    shared = True

    def __init__(self, path: Path):
        self.path = path
        self._read: list[Line] = []
        self._size, self._fd = 0, -1

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A block in which no other process writes to the file, which is made if it does not exist."""
        with stated(self.path, OutputError):
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(self._fd)

    def lines(self) -> list[Line]:
        """All whole lines. Only what was added since the last call is read."""
        with stated(self.path, FormatError):
            size = os.fstat(self._fd).st_size
            if size < self._size:
                raise FormatError(f"{self.path} became shorter while it was in use")
            data = os.pread(self._fd, size - self._size, self._size)
        whole_lines = data[: data.rfind(b"\n") + 1]
        if data and not whole_lines and not self._read and not _begins_a_journal(data):
            raise FormatError(f"{self.path} is no journal: take another name, or remove it")
        self._read += parsed(str(self), whole_lines.splitlines(), len(self._read) + 1)
        self._size += len(whole_lines)
        return self._read

    def append(self, line: Line) -> None:
        """Add a line after what others wrote, and flush it to the disk."""
        self.lines()
        text = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with stated(self.path, OutputError):
            try:
                os.ftruncate(self._fd, self._size)  # cuts off what a kill left of a line
                done = 0
                while done < len(text):
                    done += os.pwrite(self._fd, text[done:], self._size + done)
                sync(self._fd)
            except OSError:
                os.ftruncate(self._fd, self._size)
                raise
        self.lines()


class Table:
    """Lines in a table of a database, for machines that share no folder.

    The URL is "postgresql://user@host/base#name" or "sqlite:///file.db#name". All journals of a database stand in one
    table, told apart by their names. This needs SQLAlchemy (extra `search`), and for PostgreSQL the extra `postgresql`.
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
        """A block that is one transaction, for whose end other processes wait."""
        with self._stated(), self._engine.connect() as self._connection:
            if self._sqlite:
                self._connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                self._run("SELECT pg_advisory_xact_lock(:key)", key=LOCK)
            yield
            self._connection.commit()

    def lines(self) -> list[Line]:
        """All lines of this journal. Only what was added since the last call is read."""
        query = f"SELECT id, line FROM {TABLE} WHERE name = :name AND id > :last ORDER BY id"
        rows = self._run(query, name=self.name, last=self._last).fetchall()
        self._read += parsed(
            self.text, [str(text).encode("utf-8", "surrogatepass") for _, text in rows], len(self._read) + 1
        )
        self._last = rows[-1][0] if rows else self._last
        return self._read

    def append(self, line: Line) -> None:
        """Add a line. Other processes see it when the lock is given back."""
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
    """Whether these bytes, a line without its end, may be what a kill left of the first line of a journal.

    Only then may they be cut off: any other file is left as it is.
    """
    begins = (b'{"search":', b'{"interference":', b'{"lab":')
    return any(data.startswith(b) or b.startswith(data) for b in begins)


def parsed(where: str, texts: Iterable[bytes], first: int) -> list[Line]:
    """The lines that these texts of JSON stand for. Raises FormatError, which names the journal (`where`) and the line;
    the first text is line `first`."""
    lines = []
    for number, text in enumerate(texts, first):
        try:
            line = json.loads(text.decode())
            if not isinstance(line, dict):
                raise ValueError("it is no object")
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{where}, line {number}: no line of a journal ({error})") from None
        lines.append(line)
    return lines
