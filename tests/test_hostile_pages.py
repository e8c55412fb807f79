"""Hostile texts in Chromium: no node added, no attribute, nothing run or asked for, and nothing hidden."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest

from attribution.experiments.comparison import compare
from attribution.views.web.html import HtmlView
from attribution.views.words import visible
from tests.hostile import FIELDS, INVISIBLE, KINDS, SHORT, TAME, TEXTS, harmless, hidden, result

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Frame, Page

KIND = pytest.mark.parametrize("kind", KINDS)

READ = """() => {
    const hidden = /[\\p{Cc}\\p{Cf}\\p{Cs}\\p{Zl}\\p{Zp}]/u;
    const shown = /[\\n\\t\\u200c\\u200d]/gu;
    const powerful = /^on|^xlink|^(href|src|action|formaction|data|ping|background|poster)$/;
    const skeleton = [];
    const raw = [];
    const suspicious = [];
    const note = (where, text) => {
        if (!hidden.test(text.replace(shown, ""))) return;
        const told = Array.from(text, (c) => (hidden.test(c) ? "U+" + c.codePointAt(0).toString(16) : c));
        raw.push(`${where}: ${told.slice(0, 200).join("")}`);
    };
    const walker = document.createTreeWalker(document, NodeFilter.SHOW_ALL);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const parent = node.parentElement;
        if (node.nodeType === Node.TEXT_NODE) {
            if (parent?.localName === "script" || parent?.localName === "style") continue;
            note(parent?.localName, node.data);
            continue;
        }
        if (node.nodeType !== Node.ELEMENT_NODE) {
            skeleton.push(`node of type ${node.nodeType}`);
            continue;
        }
        if (parent?.classList.contains("edited")) {
            // How many pieces an edit has is a matter of its words.
            const isOurs = /^(span|ins|del)$/.test(node.localName) && node.attributes.length === 0;
            if (!isOurs || node.childElementCount > 0) suspicious.push(`edited: ${node.outerHTML}`);
            continue;
        }
        let depth = 0;
        for (let above = parent; above; above = above.parentElement) depth++;
        // How large the map is drawn is a matter of the layout.
        const varied = ["hidden", "class", ...(node.localName === "canvas" ? ["height", "width"] : [])];
        const names = node.getAttributeNames().filter((name) => !varied.includes(name)).sort();
        skeleton.push(`${depth} ${node.localName} ${names.join(" ")}`);
        for (const { name, value } of node.attributes) {
            if (powerful.test(name)) suspicious.push(`${node.localName} ${name}=${value}`);
            if (name === "style" && /url|expression|import|javascript|@|\\\\/i.test(value)) suspicious.push(value);
            if (name === "srcdoc" || name === "value") continue;
            note(`${node.localName} ${name}`, value);
        }
    }
    return { skeleton, raw, suspicious };
}"""
"""Every element and comment with its place and attributes; what is there raw; what should never be there."""

USE = """async (sought) => {
    const frames = async (count) => { while (count--) await new Promise(requestAnimationFrame); };
    const change = (element, name) => element.dispatchEvent(new Event(name, { bubbles: true }));
    const boxes = [...document.querySelectorAll("[role=listbox]")];
    for (const box of document.querySelectorAll(".toolbar input[type=checkbox]")) {
        if (box.dataset.name !== "lock scale") box.click();
    }
    for (const select of document.querySelectorAll(".toolbar select")) {
        select.selectedIndex = select.options.length - 1;
        change(select, "change");
        await frames(2);
        select.selectedIndex = 0;
        change(select, "change");
        await frames(2);
    }
    for (const [index, box] of boxes.entries()) {
        const option = box.querySelectorAll("[role=option]")[2];
        if (index % 2) option?.dispatchEvent(new PointerEvent("pointerdown", { bubbles: true, button: 0 }));
        document.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
        await frames(3);
    }
    const search = document.querySelector("input[type=search]");
    if (search) {
        search.value = sought;
        change(search, "input");
    }
    for (const button of [...document.querySelectorAll(".variants button")].slice(0, 4)) {
        button.click();
        await frames(1);
    }
    await frames(2);
    const more = [...document.querySelectorAll(".list button")].find((button) => button.textContent === "show them");
    more?.click();
    boxes[1]?.querySelectorAll("[role=option]")[4]?.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
    await frames(3);
}"""
"""Uses what there is to use: switches, choices, search, edits, more of the list; points at an output."""


def check(shown: Page | Frame, like: Page | Frame) -> None:
    """A document with the elements and attributes of `like`, and no others, in which nothing is hidden."""
    found, expected = shown.evaluate(READ), like.evaluate(READ)
    assert found["suspicious"] == []
    pairs = zip(found["skeleton"], expected["skeleton"], strict=False)
    assert next(((at, *pair) for at, pair in enumerate(pairs) if pair[0] != pair[1]), None) is None
    assert len(found["skeleton"]) == len(expected["skeleton"])
    assert found["raw"] == []


def mounted(shown: Page | Frame) -> None:
    shown.wait_for_selector(".attribution .actions")
    shown.wait_for_selector(".live", state="attached")


@pytest.fixture
def opened(show, new_page) -> Callable[..., Page]:
    """Shows a document in a page of its own."""

    def shown(document: str, **options: Any) -> Page:
        document.encode()
        return show(document, new_page(**options))

    return shown


def used(page: Page | Frame, sought: str) -> Page | Frame:
    """The same after all has been used that a person can use."""
    mounted(page)
    page.evaluate(USE, sought)
    return page


@KIND
def test_pages(kind: str, opened) -> None:
    pages = [opened(KINDS[kind](texts, name).html_view().page()) for texts, name in twice(TEXTS, FIELDS[0])]
    for page in pages:
        mounted(page)
    check(*pages)
    check(*(used(page, sought) for page, sought in zip(pages, (TEXTS[0], TAME[0]), strict=True)))


def test_pages_with_every_name(opened) -> None:
    """What there is one of, such as a model's name, is every text in turn."""
    like = used(opened(result(TAME[:5], harmless(FIELDS[0])).html_view().page()), "x")
    for field in FIELDS[1:]:
        page = used(opened(result(TEXTS[:5], field).html_view().page()), field)
        check(page, like)
        page.context.close()


@KIND
def test_every_string_of_a_payload_is_text(kind: str, opened) -> None:
    """Whatever may come from elsewhere: verdicts, titles, labels, granularities."""
    payload = KINDS[kind](["a", "b", "c", "d", "e"], "name").html_view()._payload
    like = used(opened(HtmlView(everywhere(payload, "tame"), "text").page()), "x")
    place = list(KINDS).index(kind)
    for text in (FIELDS[place], FIELDS[-place - 1]):
        # In one line, so that it has as many pieces as the other.
        page = used(opened(HtmlView(everywhere(payload, text.replace("\n", " ")), "text").page()), text)
        check(page, like)
        page.context.close()


def everywhere(payload: Any, text: str) -> Any:
    """The payload with this text before every text in it, but for those that say how to read it."""
    if isinstance(payload, dict):
        kept = ("format", "kind", "version", "scores", "errors", "output_scores", "prompt", "pairs", "variants")
        return {
            key: value
            if key in kept
            else {text + name: groups for name, groups in value.items()}
            if key == "levels"
            else everywhere(value, text)
            for key, value in payload.items()
        }
    if isinstance(payload, list):
        return [everywhere(each, text) for each in payload]
    return text + payload if isinstance(payload, str) and payload else payload


@pytest.mark.parametrize("name", ["__proto__", "constructor", "toString"])
def test_names_of_properties_are_names(name: str, opened) -> None:
    """What every object of JavaScript has is no granularity that there is."""
    texts = ["a", "b", "c", "d", "e"]
    page = used(opened(compare(result(texts, name), result(texts, name)).html_view().page()), name)
    for box in page.query_selector_all("[role=listbox]"):
        assert len(box.query_selector_all("[role=option]")) in (len(texts), len(texts) + 1)


def test_the_prompt_and_the_output_are_seen_as_they_are(show, page) -> None:
    texts = [text for text in (*TEXTS, *INVISIBLE.values()) if text.strip()]
    shown = result(texts, "name", chat=False)
    show(shown.html_view().page())
    mounted(page)
    lines = "box => [...box.querySelectorAll('.line')].map(line => line.textContent).join('\\n')"
    prompt, output = (box.evaluate(lines) for box in page.query_selector_all("[role=listbox]"))
    assert prompt.replace("\t", "    ") == visible(shown.prompt, layout=True) + "name"  # the label of the last unit
    assert output.replace("\t", "    ") == visible(shown.output, layout=True)


def test_the_list_is_saved_for_spreadsheets(show, page) -> None:
    texts = SHORT[::-1]
    show(result(texts, FIELDS[0]).html_view().page())
    mounted(page)
    with page.expect_download() as waiting:
        page.click("text=save list as CSV")
    rows = list(csv.DictReader(StringIO(waiting.value.path().read_bytes().decode(), newline="")))
    assert len(rows) == len(texts) - 1  # one is special
    cells = [row[column] for row in rows for column in ("name", "role")]
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []
    assert any(cell.startswith("'=HYPERLINK") for cell in cells)
    with page.expect_download() as waiting:
        page.click("text=save JSON")
    saved = json.loads(waiting.value.path().read_bytes())
    assert saved["panels"][0]["outputs"]["texts"] == texts


@KIND
def test_notebooks(kind: str, opened) -> None:
    notebooks = [KINDS[kind](texts, name).html_view().notebook() for texts, name in twice(SHORT[::4], FIELDS[1])]
    pages = [opened(host(notebook)) for notebook in notebooks]
    check(*(used(page.frames[1], TEXTS[0]) for page in pages))
    check(*pages)
    for page in pages:
        assert page.locator("iframe").get_attribute("sandbox") == "allow-scripts allow-downloads"
        assert not page.locator(".attribution-summary").is_visible()
        page.context.close()


@KIND
def test_notebooks_without_their_frame(kind: str, opened) -> None:
    """As sites show them that take frames away; with scripts allowed, so that any would run."""
    notebooks = [KINDS[kind](texts, name).html_view().notebook() for texts, name in twice(TEXTS, FIELDS[2])]
    alone = [re.sub(r"<iframe.*</iframe>", "", notebook, flags=re.DOTALL) for notebook in notebooks]
    pages = [opened(host(notebook)) for notebook in alone]
    check(*pages)
    assert all(page.locator(".attribution-summary").is_visible() for page in pages)


@KIND
def test_pages_without_scripts(kind: str, opened) -> None:
    pages = [
        opened(KINDS[kind](texts, name).html_view().page(), java_script_enabled=False)
        for texts, name in twice(SHORT[1::4], FIELDS[3])
    ]
    tags = ("*", "pre", "span", "p", "td", "script", "img")
    counts = [{tag: page.locator(tag).count() for tag in tags} for page in pages]
    assert counts[0] == counts[1]
    assert counts[0]["pre"] == 1
    assert not hidden(pages[0].locator("pre").text_content() or "")


def test_a_summary_says_the_whole_prompt(show, new_page) -> None:
    for start in range(0, len(SHORT), 40):
        shown = result(SHORT[start : start + 40], "name", chat=False)
        page = show(shown.html_view().page(), new_page(java_script_enabled=False))
        said = page.locator("pre").text_content() or ""
        assert said.startswith(visible(shown.prompt, layout=True))
        page.context.close()


def twice(texts: list[str], name: str) -> tuple[tuple[list[str], str], tuple[list[str], str]]:
    """These texts with this name, and the same without harm."""
    return (texts, name), ([harmless(text) for text in texts], harmless(name))


def host(notebook: str) -> str:
    """A page that shows the output of a cell, and forbids nothing."""
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Notebook</title><body>{notebook}</body></html>'
