"""The page and the notebook's output: whole, allowed by their own policy, small, and never broken out of."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest

from attribution.experiments.comparison import compare
from attribution.result import Attribution, Output, Unit
from attribution.views.web import html
from attribution.views.web.html import HtmlView
from attribution.views.web.payload import comparison_payload, result_payload
from attribution.views.words import visible
from tests.test_payload import units_of
from tests.test_result import result, whole

HOSTILE = (
    "</script><script>alert(1)</script>",
    "</SCRIPT ><img src=x onerror=alert(1)>",
    "<!--<script>",
    "--></noscript></pre></style><svg onload=alert(1)>",
    "]]></title></iframe></textarea>",
    '"\' onmouseover="alert(1)" x=\'',
    "&quot;&#39;&amp;&lt;b&gt;",
    "javascript:alert(1)",
    "\u202edlrow\u202c \u2066a\u2069",
    "\u2028\u2029\ufeff\u200b",
    "\x1b[31m\x1b]8;;http://x\x07\x9b2J\x00\r",
    "\ud800 \udfff\ud83d",
    "👩\u200d👧 é 中文",
    "a" * 10_000,
    "$x^2$ \\(y\\) ${1} `b`",
    "\n\n<b>bold</b>\t",
)

VOID = {"meta", "img", "br", "link", "input", "base"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    inside: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    """All elements of a document, with the text directly in them."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = [Element("", {})]
        self.comments: list[str] = []
        self.feed(document)
        self.close()
        assert len(self._open) == 1, "every element is closed"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        element = Element(tag, dict(attrs), inside=[each.tag for each in self._open])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop().tag == tag

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def handle_comment(self, data):
        self.comments.append(data)

    def the(self, tag: str, **attributes: str) -> Element:
        (found,) = self.all(tag, **attributes)
        return found

    def all(self, tag: str, **attributes: str) -> list[Element]:
        return [e for e in self.elements if e.tag == tag and attributes.items() <= e.attributes.items()]


@pytest.fixture(autouse=True)
def assets(monkeypatch):
    """A small view, since these tests are about what surrounds it."""
    texts = {
        "view.js": "export function mount(element, payload) { element.textContent = 'a & b' && payload.kind < \"z\"; }",
        "view.css": "main > p { color: black }",
    }
    own = html.files
    monkeypatch.setattr(html, "files", lambda package: _Folder(own(package), texts))


class _Folder:
    """A package's folder in which some files are others."""

    def __init__(self, folder, texts) -> None:
        self._folder, self._texts = folder, texts

    def joinpath(self, name):
        return _File(self._texts[name]) if name in self._texts else self._folder.joinpath(name)


class _File:
    def __init__(self, text: str) -> None:
        self._text = text

    def read_text(self, encoding: str) -> str:
        assert encoding == "utf-8"
        return self._text


def view(*results: Attribution, outputs=None) -> HtmlView:
    outputs = range(len(results[0].outputs)) if outputs is None else outputs
    return HtmlView(result_payload([each.to_dict() for each in results], list(outputs)))


def hostile(*texts: str, between: str = " ", size: float = 1.0) -> Attribution:
    """A result with these texts in its prompt, its output, and all its names."""
    prompt, units, start = between.join(texts), [], 0
    for index, text in enumerate(texts):
        units.append(
            Unit(text, start, start + len(text), index, index + 1, text, False, name=text if index % 2 else "")
        )
        start += len(text) + len(between)
    scores = size * np.linspace(-1, 1, len(texts), dtype=np.float32)[None]
    first = texts[0]
    return result(
        prompt=prompt,
        units=tuple(units),
        outputs=tuple(Output(text, 1, -1.0) for text in texts),
        scores=np.repeat(scores, len(texts), 0),
        output_scores=None,
        target=first,
        ablation=first,
        granularity=first,
        method={"name": first, "options": {first: first}, "signed": True, "unit": first},
        model={"name": first, "architecture": first, "dtype": first, "revision": first},
        versions={first: first},
    )


# The page


def test_a_page_is_one_file() -> None:
    page = view(result()).page()
    assert page.startswith("<!doctype html>")
    page.encode("ascii", "xmlcharrefreplace").decode("ascii")
    reader = Reader(page)
    assert reader.the("html").attributes["lang"] == "en"
    assert reader.all("meta", charset="utf-8")
    assert reader.all("meta", name="viewport")
    assert reader.the("title").text == "Attribution: leave_one_out · m · logprob · absent: delete"
    assert reader.the("main").attributes == {"id": "attribution-view"}
    assert not [e for e in reader.elements if {"src", "href", "style"} & e.attributes.keys()]
    assert "http:" not in page.replace("http://www.w3.org", "")
    assert "https:" not in page


def test_the_policy_allows_this_script_and_style_only() -> None:
    reader = Reader(view(result()).page())
    policy = reader.the("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]

    def fingerprint(text: str) -> str:
        return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    script, style = reader.the("script", type="module").text, reader.the("style").text
    assert rules == {
        "default-src": "'none'",
        "script-src": fingerprint(script),
        "style-src": fingerprint(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
    }
    tags = [e.tag for e in reader.elements]
    assert tags.index("meta") < tags.index("style") < tags.index("script")


def test_the_script_is_the_same_for_all_data() -> None:
    pages = [view(result()).page(), view(hostile(*HOSTILE)).page()]
    policies = {re.search(r'http-equiv="Content-Security-Policy" content="[^"]*"', page)[0] for page in pages}
    assert len(policies) == 1
    assert len({Reader(page).the("script", type="module").text for page in pages}) == 1


@pytest.mark.parametrize("ending", ["</script", "</SCRIPT>", "</style", "<!--"])
@pytest.mark.parametrize("name", ["view.js", "view.css"])
def test_the_view_must_not_end_its_own_element(name, ending, monkeypatch) -> None:
    monkeypatch.setattr(html, "files", lambda package: _Folder(None, {"view.js": "", "view.css": "", name: ending}))
    with pytest.raises(RuntimeError, match="would end its element"):
        view(result()).page()


def test_it_says_the_same_every_time() -> None:
    assert view(result()).page() == view(result()).page()
    assert view(result()).notebook() == view(result()).notebook()


# The notebook


def test_the_notebook_holds_the_page_in_a_frame() -> None:
    for shown in (view(result()), view(hostile(*HOSTILE))):
        reader = Reader(shown.notebook())
        frame = reader.the("iframe")
        assert frame.attributes["srcdoc"] == shown.page()
        assert frame.attributes["sandbox"] == "allow-scripts allow-downloads"
        assert frame.attributes["title"].startswith("Attribution: ")
        assert not reader.all("script")
        height = int(re.search(r"height:(\d+)px", frame.attributes["style"])[1])
        assert 420 <= height <= 900


def test_a_longer_prompt_gets_a_higher_frame() -> None:
    def height(text: str) -> int:
        return int(re.search(r"height:(\d+)px", view(hostile(text)).notebook())[1])

    assert height("a") == height("a " * 10) < height("a " * 50) < height("a\n" * 60) == 900


def test_the_frame_hides_the_summary() -> None:
    reader = Reader(view(result()).notebook())
    tags = [e for e in reader.elements if e.inside == ["", "div"]]
    assert [e.tag for e in tags] == ["style", "iframe", "div"]
    style, frame, summary = tags
    selector = f"iframe.{frame.attributes['class']}[srcdoc] + .{summary.attributes['class'].split()[0]}"
    assert style.text == f"{selector} {{ display: none }}"


def test_several_in_one_cell() -> None:
    outputs = [view(result()).notebook(), view(hostile("a", "b")).notebook()]
    reader = Reader("".join(outputs))
    assert len(reader.all("iframe")) == 2
    assert not [e for e in reader.elements if "id" in e.attributes]


# Without scripts


def static(shown: HtmlView) -> Reader:
    return Reader(re.sub(r"<iframe.*</iframe>", "", shown.notebook(), flags=re.DOTALL))


def test_what_is_shown_without_scripts() -> None:
    reader = static(view(result()))
    assert reader.all("p")[0].text == "leave_one_out · m · logprob · absent: delete"
    assert reader.the("pre").text.strip("\n").split("\n") == ["Hi you you", "", "→ Yo!"]
    rows = [e.text for e in reader.all("td")]
    assert rows == ["+4.000", "█" * 20, "Hi", "-2.000", "▒" * 10, "you (1 of 2)", "+1.000", "█" * 5, "you (2 of 2)"]
    assert reader.the("caption").text == "Strongest tokens for the output, in nats"
    assert reader.the("em").text == "you"  # what opposes
    assert [e.text for e in reader.all("strong")] == ["Hi", "you", "→ "]
    assert "outside the scale: 1 special, +0.250 together" in [e.text for e in reader.all("p")]


def test_some_outputs_without_scripts() -> None:
    reader = static(view(result(), outputs=[0]))
    assert reader.the("caption").text == "Strongest tokens for 'Yo', in nats"
    assert [e.text for e in reader.all("td")][::3] == ["-2.000", "+1.000", "+0.500"]
    assert "Yo" in [e.text for e in reader.all("strong")]


def test_one_row_and_weak_signals_without_scripts() -> None:
    reader = static(view(whole()))
    assert any("add up to within 0.5 nats" in e.text for e in reader.all("p"))
    weak = static(view(result(scores=np.full((3, 4), 1e-4, np.float32))))
    assert any(e.text.startswith("Weak signal: nothing moves it by 0.01 nats") for e in weak.all("p"))
    assert not weak.all("span")
    nothing = static(view(result(scores=np.zeros((3, 4), np.float32))))
    assert any("every score is 0" in e.text for e in nothing.all("p"))
    assert not nothing.all("table")


def test_errors_without_scripts() -> None:
    errors = np.full((3, 4), 0.25, np.float32)
    reader = static(view(result(errors=errors)))
    assert reader.all("td")[0].text == "+4.000 ± 0.750"
    assert "± standard error, at most" in reader.the("caption").text


def test_the_page_without_scripts_says_the_same_without_inline_styles() -> None:
    page, notebook = Reader(view(result()).page()), static(view(result()))
    assert page.the("pre").text == notebook.the("pre").text
    rules = page.the("style").text
    used = {e.attributes["class"] for tag in ("span", "em", "pre", "td") for e in page.all(tag) if e.attributes}
    assert used
    assert all(f".{name}{{" in rules for name in used)


def test_long_prompts_are_shown_around_the_strongest() -> None:
    texts = [f"word{i}😀" for i in range(5_000)]
    scores = np.zeros((3, 5_000), np.float32)
    scores[0, 700], scores[0, 4000] = 2, -1
    prompt, units = units_of(*texts)
    long = result(prompt=prompt, units=units, scores=scores)
    reader = static(view(long, outputs=[0]))
    prompt = reader.the("pre").text
    assert "word700😀" in prompt
    assert "word4000😀" in prompt
    assert "word2000😀" not in prompt
    assert len(prompt) < 6_000
    assert "\ufffd" not in prompt
    assert "U+D8" not in prompt  # no character is cut in two
    left_out = sum(int(count.replace(",", "")) for count in re.findall(r"…([\d,]+) characters left out", prompt)[:3])
    units = len(long.prompt.encode("utf-16-le")) // 2
    assert 0.9 * units < left_out < units


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_shaded_text_can_be_read() -> None:
    pairs = re.findall(r"background:(#\w{6});color:#000", view(result()).page())
    assert len(pairs) == 18
    assert all((luminance(paper) + 0.05) / 0.05 >= 4.5 for paper in pairs)


def test_other_findings_are_plain_text_without_scripts() -> None:
    found = compare(result(), Attribution(**vars(hostile("Hi", "<b>you</b>")) | {"granularity": "token"}))
    shown = HtmlView(comparison_payload(found.to_dict()), str(found))
    for reader in (static(shown), Reader(shown.page())):
        assert reader.the("pre").text.strip("\n") == str(found)
    assert Reader(shown.page()).the("title").text == "Attribution: two results side by side"


# Hostile texts

ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "main", "noscript", "script"),
    *("p", "pre", "span", "em", "strong", "table", "caption", "thead", "tbody", "tr", "th", "td", "div", "iframe"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "id", "type"),
    *("style", "sandbox", "title", "srcdoc"),
}


def check_tame(document: str, like: str) -> Reader:
    """A document without any element or attribute that is not ours, and as many of the powerful ones as `like`."""
    reader, other = Reader(document), Reader(like)
    assert {e.tag for e in reader.elements} <= ELEMENTS
    assert {name for e in reader.elements for name in e.attributes} <= ATTRIBUTES
    for tag in ("script", "style", "iframe", "meta", "title", "noscript", "main", "pre", "div", "p"):
        assert len(reader.all(tag)) == len(other.all(tag)), tag
    assert reader.comments == other.comments == []
    return reader


@pytest.mark.parametrize("text", HOSTILE, ids=[f"{i}" for i in range(len(HOSTILE))])
def test_hostile_texts_stay_texts(text) -> None:
    tame, wild = view(hostile(*"abcd")), view(hostile("a", text, "b", text))
    for shown in (wild, view(hostile(text, "a", "b", "c"))):
        page = check_tame(shown.page(), tame.page())
        kept = json.loads(page.the("script", type="application/json").text)
        assert text in kept["panels"][0]["prompt"]
        assert kept["panels"][0]["outputs"]["texts"].count(text)
        reader = check_tame(shown.notebook(), tame.notebook())
        assert reader.the("iframe").attributes["srcdoc"] == shown.page()
        shown.page().encode("utf-8")
        shown.notebook().encode("utf-8")
    if len(text) < 1_000:
        # What follows <pre> is a newline that browsers drop.
        assert static(wild).the("pre").text.startswith("\n" + visible(f"a {text} b {text}", layout=True))


def test_all_hostile_texts_at_once() -> None:
    shown, tame = view(hostile(*HOSTILE)), view(hostile(*map(str, range(len(HOSTILE)))))
    page = check_tame(shown.page(), tame.page())
    check_tame(shown.notebook(), tame.notebook())
    kept = json.loads(page.the("script", type="application/json").text)
    assert kept["panels"][0]["prompt"] == " ".join(HOSTILE)
    assert kept["panels"][0]["outputs"]["texts"] == list(HOSTILE)
    embedded = re.search(r'id="attribution-payload">(.*?)</script>', shown.page(), re.DOTALL)[1]
    assert not set("<>&\u2028\u2029") & set(embedded)
    assert embedded.isascii()


def test_hostile_plain_text() -> None:
    text = "\n".join(HOSTILE)
    shown, tame = HtmlView(result_payload([result().to_dict()], [0]), text), HtmlView(view(result())._payload, "a")
    check_tame(shown.page(), tame.page())
    reader = check_tame(shown.notebook(), tame.notebook())
    assert reader.the("pre").text == "\n" + visible(text, layout=True)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown.notebook())


# Size


def test_a_long_result_is_small(monkeypatch) -> None:
    """2,000 units x 200 outputs in at most 1.2 MB, with a view of 60 KB, at random: nothing deflates worse."""
    random = np.random.default_rng(0)
    script = '// it\'s "quoted" && more\n' * 2_400
    monkeypatch.setattr(html, "files", lambda package: _Folder(None, {"view.js": script, "view.css": "x" * 16_000}))
    inside = [{"sentence": i // 12, "line": i // 40, "paragraph": i // 200} for i in range(2_000)]
    prompt, units = units_of(*(f"word{i % 97}" for i in range(2_000)), inside=inside)
    outputs = tuple(Output(f"{i} ", i, float(random.normal())) for i in range(200))
    scores = random.normal(size=(200, 2_000)).astype(np.float32)
    output_scores = np.tril(random.normal(size=(200, 200)), -1).astype(np.float32)
    shown = view(result(prompt=prompt, units=units, outputs=outputs, scores=scores, output_scores=output_scores))
    assert len(shown.page().encode()) <= 1_200_000
    assert len(shown.notebook().encode()) <= 1_200_000


def test_the_real_view_is_packaged_and_fits_into_a_page(monkeypatch) -> None:
    monkeypatch.setattr(html, "files", files)
    page = Reader(view(result()).page())
    assert re.search(r"export (async )?function mount\b", page.the("script", type="module").text)
    assert page.the("style").text.strip()
    check_tame(view(hostile(*HOSTILE)).page(), view(hostile(*map(str, range(len(HOSTILE))))).page())
