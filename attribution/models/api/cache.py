"""Cache: replies on the disk, so that none is paid for twice, also by a run that was killed in between."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar, cast

from attribution.checks import check_count
from attribution.errors import ResultFileError
from attribution.files import check_file

_KIND = 0x61747472  # "attr", in the place that sqlite keeps for saying whose file it is
_SCHEMA = 1
_PATIENCE = 30.0
"""Seconds that one process waits for another to finish writing, which takes a millisecond."""
_AT_ONCE = 500
"""Keys looked up, or deleted, in one statement."""
_FULL = 0.9
"""How full a cache still is after the oldest replies have gone, so that they do not go one by one."""

_TABLES = (
    "CREATE TABLE replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL, size INTEGER NOT NULL, used REAL NOT NULL);",
    "CREATE INDEX oldest ON replies (used);",
    "CREATE TABLE total (size INTEGER NOT NULL);",
    "INSERT INTO total VALUES (0);",
    "CREATE TRIGGER came AFTER INSERT ON replies BEGIN UPDATE total SET size = size + new.size; END;",
    "CREATE TRIGGER went AFTER DELETE ON replies BEGIN UPDATE total SET size = size - old.size; END;",
    "CREATE TRIGGER changed AFTER UPDATE OF size ON replies "
    "BEGIN UPDATE total SET size = size + new.size - old.size; END;",
)

Returned = TypeVar("Returned")


def default_path() -> Path:
    """Where replies are kept unless said otherwise: `attribution/replies.sqlite3` in the user's folder for caches."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative one is to be ignored: https://specifications.freedesktop.org/basedir-spec/latest/
    folder = chosen if chosen.is_absolute() else Path.home() / ".cache"
    return folder / "attribution" / "replies.sqlite3"


class Cache:
    """Replies by digest of their request, in one sqlite file of about `max_bytes`; those unused for longest go first.

    A reply that was added is there for whoever opens the file next, also if this process is killed at once. Several
    threads and processes may use one file. Neither questions nor keys are in it, only digests and replies; the file is
    its owner's alone. `with cache:` keeps it open in between.

    Raises `InputError` where the file's folder is missing (the default one is created), and `ResultFileError` where
    the file is damaged or another program's: it is never deleted for you, since what is in it was paid for.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, max_bytes: int = 1_000_000_000) -> None:
        self.max_bytes = check_count("max_bytes", max_bytes)
        if path is None:
            path = default_path()
            self._guarded(lambda: Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True), Path(path))
        self.path = check_file(path)
        self._lock = RLock()
        self._users = 0
        self._connection: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"Cache({str(self.path)!r}, max_bytes={self.max_bytes})"

    def __enter__(self) -> Cache:
        with self._lock:
            if self._connection is None:
                self._connection = self._guarded(self._open, self.path)
            self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._connection is not None:
                self._connection.close()
                self._connection = None

    def find(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The replies that are known, by key; those now count as used."""
        wanted = list(keys)
        found: dict[str, dict[str, Any]] = {}

        def look(database: sqlite3.Connection) -> None:
            for start in range(0, len(wanted), _AT_ONCE):
                some = wanted[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                rows = database.execute(f"SELECT key, reply FROM replies WHERE key IN ({marks})", some).fetchall()
                if rows:
                    found.update((key, json.loads(text)) for key, text in rows)
                    used = [(time.time(), key) for key, _ in rows]
                    with _transaction(database):
                        database.executemany("UPDATE replies SET used = ? WHERE key = ?", used)

        self._use(look)
        return found

    def add(self, key: str, reply: Mapping[str, Any]) -> None:
        """Keeps a reply; once this returns it outlives this process. One that is larger than the cache is not kept."""
        text = json.dumps(reply)
        if len(text) > self.max_bytes:
            return

        def keep(database: sqlite3.Connection) -> None:
            with _transaction(database):
                database.execute(
                    "INSERT INTO replies VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET reply = excluded.reply, "
                    "size = excluded.size, used = excluded.used",
                    (key, text, len(text), time.time()),
                )
                self._shrink(database)

        self._use(keep)

    def __len__(self) -> int:
        return self._use(lambda database: database.execute("SELECT count(*) FROM replies").fetchone()[0])

    @property
    def size(self) -> int:
        """Bytes of all replies in it."""
        return self._use(lambda database: database.execute("SELECT size FROM total").fetchone()[0])

    def _shrink(self, database: sqlite3.Connection) -> None:
        """Deletes the replies unused for longest, where there is more than fits."""
        (total,) = database.execute("SELECT size FROM total").fetchone()
        if total <= self.max_bytes:
            return
        while total > _FULL * self.max_bytes:
            oldest = database.execute(
                "SELECT key, size FROM replies ORDER BY used, key LIMIT ?", (_AT_ONCE,)
            ).fetchall()
            # The one that is used last has just come.
            gone: list[tuple[str]] = []
            for key, size in oldest:
                if total <= _FULL * self.max_bytes:
                    break
                gone.append((key,))
                total -= size
            if not gone:
                break
            database.executemany("DELETE FROM replies WHERE key = ?", gone)

    def _use(self, work: Callable[[sqlite3.Connection], Returned]) -> Returned:
        with self._lock, self:
            database = cast(sqlite3.Connection, self._connection)
            return self._guarded(lambda: work(database), self.path)

    def _open(self) -> sqlite3.Connection:
        # Created before sqlite does, which would let everyone read it; its companions are given the same mode.
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        database = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(database)
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                database.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                # While another process switches to it too, sqlite refuses without waiting.
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.01)
        # What was written outlives the process; only a machine that loses power may lose the last replies.
        database.execute("PRAGMA synchronous = NORMAL")
        if self._schema(database) == (_KIND, _SCHEMA):
            return
        with _transaction(database):
            kind, schema = self._schema(database)
            if (kind, schema) == (_KIND, _SCHEMA):
                return
            if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] or kind or schema:
                what = f"of another version (schema {schema}, this one has {_SCHEMA})" if kind == _KIND else "none"
                raise ResultFileError(
                    f"Expected a cache of replies, got {str(self.path)!r}, which is {what}. Name another."
                )
            for statement in _TABLES:
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {_KIND}")
            database.execute(f"PRAGMA user_version = {_SCHEMA}")

    def _schema(self, database: sqlite3.Connection) -> tuple[int, int]:
        """Whose file it is, and of which version."""
        (kind,) = database.execute("PRAGMA application_id").fetchone()
        (schema,) = database.execute("PRAGMA user_version").fetchone()
        return kind, schema

    def _guarded(self, work: Callable[[], Returned], path: Path) -> Returned:
        """What `work` gives; what the disk or sqlite raises is told with the file's name."""
        try:
            return work()
        except (OSError, sqlite3.OperationalError) as error:
            raise ResultFileError(f"The cache {str(path)!r} cannot be used: {error}. Name another, or none.") from error
        except (sqlite3.Error, json.JSONDecodeError) as error:
            raise ResultFileError(
                f"The cache {str(path)!r} is damaged: {error}. Delete it, with {path.name}-wal and {path.name}-shm "
                "beside it; what was in it is asked and paid anew."
            ) from error


@contextmanager
def _transaction(database: sqlite3.Connection) -> Generator[None, None, None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.rollback()
        raise
    database.commit()
