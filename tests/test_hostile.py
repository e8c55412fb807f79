"""Hostile texts in terminals, files, tables and pictures: no state of a terminal changed, nothing lost or hidden."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from attribution.errors import ResultFileError
from attribution.result import Attribution
from attribution.views.terminal.comparison import ComparisonView
from attribution.views.terminal.result import TextView
from attribution.views.terminal.table import TableView
from attribution.views.words import visible
from tests.hostile import CORPUS, FIELDS, INVISIBLE, KINDS, LONG, PAIRED, SHORT, TAME, TEXTS, harmless, hidden, result

pytestmark = pytest.mark.slow

KIND = pytest.mark.parametrize("kind", KINDS)


def test_the_corpus_is_told_apart() -> None:
    assert len(set(TEXTS)) == len(TEXTS)
    assert not [text for text in TAME if re.search(r"[^a-z \n\t]", text)]
    assert all(any(text in field for field in FIELDS) for text in TEXTS if len(text) <= 180)


def groups(count: int = 9) -> Iterator[list[str]]:
    """All texts but the long one, a few at a time."""
    for start in range(0, len(SHORT), count):
        yield SHORT[start : start + count]


# Terminals


class Terminal:
    """Reads what a terminal gets, and takes nothing but text, newlines and colours; says what state it is left in."""

    ATTRIBUTES = frozenset({*range(10), *range(30, 38), 39, *range(40, 48), 49, *range(90, 98), *range(100, 108)})

    def __init__(self, written: str) -> None:
        self.text: list[str] = []
        self.styled = False
        state, parameters = "text", ""
        for place, character in enumerate(written):
            around = ascii(written[max(place - 20, 0) : place + 20])
            if state == "text":
                if character == "\x1b":
                    state = "escape"
                    continue
                assert character == "\n" or not hidden(character), f"{character!a} in {around}"
                self.text.append(character)
            elif state == "escape":
                assert character == "[", f"ESC {character!a} in {around}"
                state, parameters = "parameters", ""
            elif character == "m":
                self._style([int(number or 0) for number in parameters.split(";")], around)
                state = "text"
            else:
                assert character in "0123456789;", f"CSI {parameters}{character!a} in {around}"
                parameters += character
        assert state == "text", f"it ends within a sequence: {written[-20:]!a}"
        assert not self.styled, "colours are left on"

    def _style(self, numbers: list[int], around: str) -> None:
        self.styled = numbers != [0]
        rest = iter(numbers)
        for number in rest:
            if number in (38, 48):
                count = {2: 3, 5: 1}[next(rest)]
                assert all(0 <= next(rest) < 256 for _ in range(count)), around
            else:
                assert number in self.ATTRIBUTES, around

    def __str__(self) -> str:
        return "".join(self.text)


def printed(shown: Any, width: int = 100, **options: Any) -> str:
    """What a terminal gets of it."""
    written = StringIO()
    settings = {"force_terminal": True, "color_system": "truecolor", "legacy_windows": False} | options
    # As in printing.py.
    Console(file=written, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False, **settings).print(
        shown
    )
    return written.getvalue()


def test_the_terminal_takes_colours_only() -> None:
    assert str(Terminal("a\x1b[1;38;2;1;2;3;48;5;7mb\x1b[0m\n")) == "ab\n"
    for text in (*(CORPUS[name] for name in ("screen", "title", "hyperlink", "clipboard", "c1", "reset")), "\x1b[1ma"):
        with pytest.raises(AssertionError):
            Terminal(text)


SYSTEMS = {
    "truecolor": {"color_system": "truecolor"},
    "256": {"color_system": "256"},
    "16": {"color_system": "standard"},
    "without colours": {"no_color": True},
    "a pipe": {"color_system": None, "force_terminal": False},
}


@KIND
def test_texts_on_a_terminal(kind: str) -> None:
    for texts in groups():
        shown = KINDS[kind](["Hi", *texts, "you", "x", "y"], " ".join(texts))
        for system in ("truecolor", "a pipe"):
            written = printed(shown, 400, **SYSTEMS[system])
            assert system != "a pipe" or written == str(Terminal(written))
            Terminal(written)
        plain = str(shown)
        assert plain == str(Terminal(plain))
        bundle = shown._repr_mimebundle_()
        assert bundle["text/plain"] == plain
        assert not hidden(bundle["text/html"])


@KIND
def test_repr(kind: str) -> None:
    for texts in groups():
        assert not hidden(repr(KINDS[kind](["Hi", *texts, "you", "x", "y"], texts[0][:50])))


@KIND
@pytest.mark.parametrize("system", SYSTEMS)
def test_all_texts_on_a_terminal(kind: str, system: str) -> None:
    Terminal(printed(KINDS[kind](TEXTS, FIELDS[0]), 24 if system == "a pipe" else 120, **SYSTEMS[system]))


def test_every_text_of_a_prompt_is_seen_whole() -> None:
    shown = result(SHORT, "name", chat=False)
    view = TextView(shown.to_dict(), range(len(SHORT)), full=True)
    written = str(Terminal(printed(view, 100_000)))
    assert visible(shown.prompt, layout=True).rstrip() in written
    compared = ComparisonView(KINDS["comparison"](SHORT, "name").to_dict(), full=True)
    assert visible(" ".join(SHORT), layout=True).rstrip() in str(Terminal(printed(compared, 100_000)))


def test_the_table_on_a_terminal() -> None:
    scores = [[0.5] * (len(TEXTS) + 2)] * 2
    Terminal(printed(TableView(" ".join(TEXTS), "".join(SHORT), [*TEXTS, *TEXTS[:2]], scores)))


@pytest.mark.parametrize("name", INVISIBLE)
def test_what_is_no_letter_is_marked(name: str) -> None:
    text = INVISIBLE[name]
    assert not set(visible(text)) & {c for c in text if not c.isascii()}


# Files and tables


@KIND
def test_json_keeps_every_text(kind: str, tmp_path: Path) -> None:
    shown = KINDS[kind](TEXTS, "".join(SHORT))
    shown.to_json(tmp_path / "r.json")
    content = (tmp_path / "r.json").read_bytes()
    assert content.isascii()
    assert not set(content) & {*range(9), *range(11, 32), 127}
    assert json.loads(content) == json.loads(json.dumps(shown.to_dict()))


def test_saved_results_keep_every_text(tmp_path: Path) -> None:
    for name in ("".join(SHORT), LONG):
        shown = result(TEXTS, name)
        shown.save(tmp_path / "r.safetensors")
        assert Attribution.load(tmp_path / "r.safetensors") == shown


def test_halves_that_make_a_pair_are_kept_apart_from_it(tmp_path: Path) -> None:
    """JSON takes them for one character, after which nothing would stand where it did."""
    shown = result([PAIRED, "b", "c", PAIRED, "e"], PAIRED)
    try:
        shown.save(tmp_path / "r.safetensors")
    except ResultFileError:
        return
    found = Attribution.load(tmp_path / "r.safetensors")
    assert len(found.units) == len(shown.units)
    assert all(0 <= unit.start <= unit.end <= len(found.prompt) for unit in found.units)
    assert found.prompt[found.units[1].start] == "b"


def test_csv_keeps_every_text(tmp_path: Path) -> None:
    shown = result(TEXTS, FIELDS[0])
    shown.to_csv(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(shown.units) * len(shown.outputs)

    def written(text: str) -> str:
        return text.encode("utf-8", "backslashreplace").decode()

    assert [row["unit_text"] for row in rows[: len(shown.units)]] == [written(unit.text) for unit in shown.units]
    assert [row["role"] for row in rows[: len(shown.units)]] == [written(unit.role) for unit in shown.units]
    assert [row["output_text"] for row in rows[:: len(shown.units)]] == [written(each) for each in TEXTS]
    assert {row["score"] for row in rows} == {str(score) for score in shown.scores.ravel().tolist()}


def test_tables_keep_every_text() -> None:
    pytest.importorskip("pandas")
    shown = result(TEXTS, FIELDS[0])
    table = shown.to_frame()
    for column, texts in (
        (table["unit_text"].tolist()[: len(shown.units)], [unit.text for unit in shown.units]),
        (table["output_text"].tolist()[:: len(shown.units)], TEXTS),
    ):
        # Half characters may be written as in CSV.
        escaped = [text.encode("utf-8", "backslashreplace").decode() for text in texts]
        assert all(found in both for found, both in zip(column, zip(texts, escaped, strict=True), strict=True))
    for kind in ("comparison", "whatif", "counterfactuals"):
        assert len(KINDS[kind](TEXTS, FIELDS[0]).to_frame())


# Pictures


@pytest.mark.parametrize("kind", ["matrix", "bars"])
@pytest.mark.parametrize("start", range(0, len(TEXTS), 20))
def test_plots(kind: Any, start: int) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    texts = TEXTS[start : start + 20]
    svg, tame = (
        saved(result(each, field, chat=False).plot(kind=kind), "svg")
        for each, field in ((texts, "".join(texts)[:100]), (TAME[start : start + 20], harmless("".join(texts)[:100])))
    )
    root, like = ElementTree.fromstring(svg), ElementTree.fromstring(tame)
    assert {each.tag for each in root.iter()} <= {each.tag for each in like.iter()}
    links = [value for each in root.iter() for name, value in each.attrib.items() if name.endswith("href")]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not hidden("".join(root.itertext()))
    assert b"<!ENTITY" not in svg
    written = "".join(root.itertext())
    plain = [text for text in texts if text.isascii() and text.isprintable() and text.strip() == text]
    names = [text for text in plain if len(text) <= 22]
    if kind == "bars":
        names = [name for name in names if name != texts[1]]  # which is special
    assert [name for name in names if name not in written] == []
    assert saved(result(texts, texts[0], chat=False).plot(kind=kind), "png").startswith(b"\x89PNG")


def saved(figure: Any, form: str) -> bytes:
    written = BytesIO()
    figure.savefig(written, format=form, **({"dpi": 40} if form == "png" else {}))
    return written.getvalue()


# The command line. What is no argument at all is told by typer, in its own words and with the text as it was typed.

TYPED = [field.replace("\x00", "").replace("\ud800", "") for field in FIELDS]
"""What a person can type: no NUL, and of half characters those that stand for bytes."""


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "{}"),
        ("show", "{}.safetensors"),
        ("explain", "Hi", "--method", "{}"),
        ("explain", "Hi", "--target", "{}x", "--units", "{}"),
        ("explain", "Hi", "--html", "/nowhere/{}"),
        ("explain", "Hi", "--max-tokens", "{}"),
        ("explain", "--chat", "{}"),
        ("x{}",),
        ("whatif", "Hi", "--swap", "{}"),
    ],
    ids=" ".join,
)
def test_errors_of_the_command_line(cli, arguments: tuple[str, ...]) -> None:
    for text in TYPED:
        status, out, error = cli(*(each.replace("{}", text) for each in arguments))
        assert status in (1, 2), (out, error)
        assert error
        assert str(Terminal(out)) == out
        assert str(Terminal(error)) == error


@pytest.mark.parametrize("more", [(), ("--full",), ("--json",)], ids=" ".join)
def test_the_command_line_shows_what_a_file_holds(cli, more: tuple[str, ...], tmp_path: Path) -> None:
    path = str(tmp_path / "r.safetensors")
    for field in FIELDS[:: 1 if not more else 9]:
        result(TEXTS[:-10] if not more else TEXTS, field).save(path)
        status, out, error = cli("show", path, *more)
        assert status == 0, error
        assert str(Terminal(out)) == out
        assert error == ""


def test_the_command_line_explains_any_text(cli) -> None:
    for text in SHORT[len(SHORT) // 2 :: 2]:
        status, out, error = cli("explain", "--method", "saliency", "--max-new-tokens", "1", "--", text)
        assert str(Terminal(out)) == out
        assert str(Terminal(error)) == error
        if text.strip() and text.encode("utf-8", "replace").decode() == text:
            assert status == 0, error
        else:
            # Half a character, or nothing, is told of in one line.
            assert status in (0, 2), error
            assert error.count("\n") <= 1
