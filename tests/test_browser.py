"""Pages are held to account: it is seen what they must not do, what WCAG forbids, and what looks other than it did."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFilter

from tests import screenshots
from tests.browser import violations
from tests.screenshots import compare_screenshot

pytestmark = pytest.mark.slow

STRICT = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


def markup(body: str, policy: str = "default-src 'none'") -> str:
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
        <meta http-equiv="Content-Security-Policy" content="{policy}">
        <title>A page</title><main><h1>Heading</h1>{body}</main></html>"""


OPEN = "default-src * 'unsafe-inline' data: blob:"


def test_an_honest_page_is_shown(show, page):
    show(markup("<p>Hello</p><script>document.querySelector('p').append(' there')</script>", STRICT))
    assert page.inner_text("p") == "Hello there"
    page.reload()
    assert page.viewport_size == {"width": 1000, "height": 800}
    screenshots.picture(page, full_page=True)  # leaves nothing in `watch`, whatever the policy


def test_a_page_without_scripts_is_shown(show, new_page):
    quiet = new_page(java_script_enabled=False, color_scheme="dark")
    show(markup("<noscript>Without</noscript><script>document.title = 'run'</script>", OPEN), quiet)
    assert quiet.title() == "A page"
    assert quiet.inner_text("noscript") == "Without"
    closed = new_page()
    closed.context.close()


def test_requests_are_refused_and_noted(show, page, watch, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("secret")
    show(
        markup(
            f"""<img src="https://example.invalid/image.png" alt=""><iframe src="{other.as_uri()}"></iframe>
            <link rel="preconnect" href="https://example.invalid"><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">
            <script>fetch("https://example.invalid/fetched").catch(() => 0);
            navigator.sendBeacon("https://example.invalid/beacon");
            new WebSocket("wss://example.invalid/socket")</script>""",
            OPEN,
        )
    )
    page.wait_for_timeout(200)
    assert sorted(watch.requests) == [
        other.as_uri(),
        "https://example.invalid/beacon",
        "https://example.invalid/fetched",
        "https://example.invalid/image.png",
        "wss://example.invalid/socket",
    ]
    watch.clear()


def test_a_page_cannot_leave(show, page, watch, tmp_path):
    address = show(markup("<script>setTimeout(() => location = 'https://example.invalid/')</script>", OPEN)).url
    page.wait_for_timeout(200)
    assert watch.requests == ["https://example.invalid/"]
    watch.requests.clear()
    assert page.url in (address, "chrome-error://chromewebdata/")


@pytest.mark.parametrize("kind", ["alert", "confirm", "prompt"])
def test_dialogs_are_dismissed_and_noted(show, page, watch, kind):
    show(markup(f"<script>document.title = String({kind}('boo'))</script>", OPEN))
    assert watch.dialogs == [f"{kind} boo"]
    watch.dialogs.clear()


def test_windows_that_open_are_noted(show, page, watch):
    show(markup("<button onclick='window.open(\"about:blank\")'>Open</button>", OPEN)).click("button")
    page.wait_for_timeout(100)
    assert watch.windows == ["about:blank"]
    watch.windows.clear()


def test_exceptions_and_errors_on_the_console_are_noted(show, page, watch):
    show(markup("<script>console.error('first'); setTimeout(() => { throw new Error('second') })</script>", OPEN))
    page.wait_for_timeout(100)
    assert watch.console == ["first"]
    assert ["second" in error for error in watch.errors] == [True]
    watch.clear()


@pytest.mark.parametrize(
    "body",
    [
        "<script>document.title = 'run'</script>",
        "<p onclick='1'>Text</p>",
        "<p style='color: red'>Text</p>",
        "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw=' alt=''>",
        "<iframe sandbox='allow-scripts' srcdoc='<script>document.title = 1</script>'></iframe>",
    ],
)
def test_what_the_policy_refuses_is_noted(show, page, watch, body):
    show(markup(body)).wait_for_timeout(100)
    assert len(watch.refused) == 1, watch
    assert page.title() == "A page"
    watch.refused.clear()


def test_markup_where_trusted_types_are_asked_is_noted(show, page, watch):
    show(markup("<script>document.body.innerHTML = '<b>bold</b>'</script>", STRICT)).wait_for_timeout(100)
    assert watch.refused
    watch.clear()


def test_what_is_not_cleared_fails_the_test(show, watch):
    show("<script>alert('boo')</script>")
    with pytest.raises(pytest.fail.Exception, match="dialogs: alert boo"):
        watch.settle()
    watch.clear()
    watch.settle()


def test_another_event_loop_may_run_between_tests_with_pages(browser):
    assert asyncio.run(asyncio.sleep(0, "ran")) == "ran"


def test_planted_violations_are_found_whatever_the_policy(show, page):
    planted = """<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><p class="pale">Pale text</p>
        <button></button><style>.pale { color: #bbb; background: #fff }</style>
        <iframe title="Framed" sandbox="allow-scripts" srcdoc="<html lang=en><title>In</title><input>"></iframe>"""
    show(markup(planted, f"{STRICT}; img-src data:"))
    found = {violation.rule: violation for violation in violations(page)}
    assert set(found) == {"image-alt", "color-contrast", "button-name", "label"}
    assert "Pale text" in repr(found["color-contrast"])
    assert "iframe" in repr(found["label"])


def test_a_page_without_violations(show, page):
    show(markup("<p>Black on white</p><button>Named</button>"))
    assert violations(page) == []


def drawing(*, box: int = 100, shade: str = "#2b5dab", soft: float = 0, size: tuple[int, int] = (400, 300)) -> bytes:
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((box, 100, box + 60, 140), fill=shade)
    for line in range(10):
        pen.text((20, 160 + 12 * line), "Sam has 3 apples and Tom has 5 oranges.", fill="black")
    return screenshots._png(screenshots.numpy.asarray(image.filter(ImageFilter.GaussianBlur(soft))))


@pytest.fixture
def references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(screenshots.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("UPDATE_SCREENSHOTS", "1")
    compare_screenshot(drawing(), "drawing", folder=tmp_path)
    monkeypatch.delenv("UPDATE_SCREENSHOTS")
    return tmp_path


def test_pictures_that_look_alike_pass(references):
    compare_screenshot(drawing(), "drawing", folder=references)
    compare_screenshot(drawing(soft=0.5), "drawing", folder=references)


@pytest.mark.parametrize("change", [{"box": 104}, {"shade": "#2b7d6b"}, {"size": (400, 308)}])
def test_pictures_that_look_different_fail(references, change):
    with pytest.raises(pytest.fail.Exception, match=r"drawing: .*see") as caught:
        compare_screenshot(drawing(**change), "drawing", folder=references)
    (kept,) = references.glob("drawing-*")
    assert str(kept) in str(caught.value)
    assert (kept / "actual.png").exists()
    assert (kept / "difference.png").exists() == ("size" not in change)


def test_a_missing_reference_says_how_to_make_it(references):
    with pytest.raises(pytest.fail.Exception, match="UPDATE_SCREENSHOTS=1"):
        compare_screenshot(drawing(), "other", folder=references)


def test_other_fonts_leave_nothing_to_compare(show, page, references, monkeypatch, capsys):
    show(markup("<p>Text</p>"))
    monkeypatch.setenv("UPDATE_SCREENSHOTS", "1")
    compare_screenshot(page, "text", folder=references)
    monkeypatch.delenv("UPDATE_SCREENSHOTS")
    compare_screenshot(page, "text", folder=references)
    monkeypatch.setattr(screenshots, "font_widths", lambda shown: [1, 2, 3, 4])
    monkeypatch.delenv("CI", raising=False)
    compare_screenshot(page, "text", folder=references)
    assert "text.png was drawn with other fonts" in capsys.readouterr().out
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.skip.Exception, match="other fonts"):
        compare_screenshot(page, "text", folder=references)
