"""The cache of replies: what is in it stays, whoever uses it at the same time; what is wrong with the file is told."""

from __future__ import annotations

import json
import math
import multiprocessing
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from attribution.errors import InputError, ResultFileError
from attribution.models.api.cache import Cache, default_path

REPLY = {"text": "é \U0001f600 \ud800", "logprob": -0.1, "none": None, "rows": [1, {"a": 1e-300}], "minus": -math.inf}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "replies.sqlite3"


def test_what_was_added_is_found(path: Path) -> None:
    cache = Cache(path)
    assert cache.find(["a", "b"]) == {}
    cache.add("a", REPLY)
    assert cache.find(["a", "b"]) == {"a": REPLY}
    assert Cache(path).find(["a"]) == {"a": REPLY}
    assert len(cache) == 1
    assert cache.size == len(json.dumps(REPLY))


def test_the_last_reply_counts(path: Path) -> None:
    cache = Cache(path)
    cache.add("a", {"n": 1})
    cache.add("a", {"n": 10})
    assert cache.find(["a"]) == {"a": {"n": 10}}
    assert (len(cache), cache.size) == (1, len('{"n": 10}'))


def test_many_at_once(path: Path) -> None:
    with Cache(path) as cache:
        for i in range(510):  # more than are looked up in one statement
            cache.add(str(i), {"n": i})
        assert cache.find(map(str, range(520))) == {str(i): {"n": i} for i in range(510)}


def test_nothing_is_open_in_between(path: Path) -> None:
    cache = Cache(path)
    with cache, cache:
        cache.add("a", REPLY)
        assert Path(f"{path}-wal").exists()
    assert not Path(f"{path}-wal").exists()
    cache.add("b", REPLY)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_only_its_owner_reads_it(path: Path) -> None:
    with Cache(path) as cache:
        cache.add("a", REPLY)
        files = list(path.parent.iterdir())
        assert len(files) == 3
        assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert Cache().path == tmp_path / "caches" / "attribution" / "replies.sqlite3"
    assert stat.S_IMODE((tmp_path / "caches" / "attribution").stat().st_mode) == 0o700
    for unusable in ("relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert default_path() == Path.home() / ".cache" / "attribution" / "replies.sqlite3"


def test_the_default_folder_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ResultFileError, match=r"replies.sqlite3' cannot be used"):
        Cache()


def test_what_was_unused_for_longest_goes_first(path: Path) -> None:
    size = len(json.dumps({"n": 100}))
    cache = Cache(path, max_bytes=10 * size)
    for i in range(100, 110):
        cache.add(str(i), {"n": i})
    assert len(cache) == 10
    assert cache.find(["100"])
    cache.add("110", {"n": 110})
    known = cache.find(map(str, range(100, 111)))
    assert cache.size <= cache.max_bytes
    assert "100" in known
    assert "110" in known
    assert "101" not in known
    assert len(known) == 9


def test_what_is_larger_than_the_cache_is_not_kept(path: Path) -> None:
    cache = Cache(path, max_bytes=20)
    cache.add("a", {"n": 1})
    cache.add("b", {"text": "x" * 100})
    assert cache.find(["a", "b"]) == {"a": {"n": 1}}


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_bytes"):
        Cache(tmp_path / "a", max_bytes=0)
    with pytest.raises(InputError, match="Create"):
        Cache(tmp_path / "missing" / "a")


@pytest.mark.parametrize("content", [b"no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_told_and_left(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ResultFileError, match=r"replies.sqlite3' is damaged.*Delete it"):
        Cache(path).find(["a"])
    assert path.read_bytes() == content


def test_a_file_damaged_in_the_middle_is_told(path: Path) -> None:
    cache = Cache(path)
    with cache:
        for i in range(100):
            cache.add(f"{i:064}", {"text": "x" * 1000})
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xaa" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(ResultFileError, match="is damaged"):
        cache.find([f"{i:064}" for i in range(100)])


def test_a_reply_that_is_no_json_is_told(path: Path) -> None:
    cache = Cache(path)
    cache.add("a", REPLY)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE replies SET reply = 'cut'")
    database.close()
    with pytest.raises(ResultFileError, match="is damaged"):
        cache.find(["a"])


def test_a_file_of_others_is_left(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE theirs (a)")
    database.close()
    with pytest.raises(ResultFileError, match=r"Expected a cache of replies, got .*, which is none. Name another"):
        Cache(path).add("a", REPLY)


def test_a_file_of_another_version_is_left(path: Path) -> None:
    Cache(path).add("a", REPLY)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ResultFileError, match=r"of another version \(schema 99, this one has 1\)"):
        Cache(path).find(["a"])


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    cache = Cache(tmp_path / "gone" / "a")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ResultFileError, match="cannot be used"):
        cache.add("a", REPLY)


def test_several_threads(path: Path) -> None:
    cache = Cache(path)

    def write(which: int) -> None:
        for i in range(50):
            cache.add(f"{i}", {"n": i})
            cache.add(f"{which} {i}", {"n": i})
            assert cache.find([f"{i}"]) == {f"{i}": {"n": i}}

    threads = [threading.Thread(target=write, args=(which,)) for which in range(4)]
    with cache:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(cache) == 250


def write_many(path: str, which: int) -> None:
    cache = Cache(path)
    for i in range(30):
        cache.add(f"{i}", {"n": i})
        cache.add(f"{which} {i}", {"n": i})


def test_several_processes(path: Path) -> None:
    fresh = multiprocessing.get_context("spawn")
    several = [fresh.Process(target=write_many, args=(str(path), which)) for which in range(3)]
    for each in several:
        each.start()
    for each in several:
        each.join()
    assert [each.exitcode for each in several] == [0, 0, 0]
    cache = Cache(path)
    assert len(cache) == 120
    assert cache.size == sum(len(json.dumps({"n": i})) for i in range(30)) * 4
