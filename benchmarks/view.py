"""The page of a long result in Chromium: its size, its first paint, a new selection: `python -m benchmarks.view`."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from attribution.result import Attribution, Output, Unit
from benchmarks.naive_page import naive_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

OUTPUTS = 200
OURS, NAIVE = "attribution", "naive page"
MOST_MILLISECONDS, MOST_MEGABYTES = 50.0, 1.2
WORDS = ("apple", "river", "the", "of", "model", "because", "seven", "Ann", "notwithstanding", "a")
PER_SENTENCE, PER_LINE, PER_PARAGRAPH = 15, 60, 600
REPEATED = 3  # times that the page is opened: the medians are told

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-extensions",
         "--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND")  # fmt: skip
PATIENCE = 120_000

HEADER = (
    "| tokens | who | MB | made in s | first paint | shaded | selection | largest | whole text | by Event Timing "
    "| times ours | must reach | reached |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|---|",
)

WATCH = """
window.shaded = new Promise((resolve) => {
  const look = () => {
    const found = document.querySelector("[data-group].for, [data-group].against, #prompt span[style]");
    if (!found) return requestAnimationFrame(look);
    const channel = new MessageChannel();
    channel.port1.onmessage = () => resolve(performance.now());
    requestAnimationFrame(() => channel.port2.postMessage(0));
  };
  addEventListener("DOMContentLoaded", look);
});
window.painted = new Promise((resolve) => {
  new PerformanceObserver((list) => {
    for (const { name, startTime } of list.getEntries()) if (name === "first-contentful-paint") resolve(startTime);
  }).observe({ type: "paint", buffered: true });
});
window.slowest = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.slowest = Math.max(window.slowest, entry.duration);
}).observe({ type: "event", durationThreshold: 16, buffered: true });
"""
"""Notes when the first shade was painted, and the longest that the browser says an event took to the next paint."""

SELECT = """async ([place, isWhole]) => {
  const output = [...document.querySelectorAll("[role=listbox], #output")].at(-1);
  const option = output.querySelectorAll("[data-group], #output span")[place];
  const prompt = document.querySelectorAll("[role=listbox], #prompt")[0];
  const painted = () => new Promise((resolve) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(0);
  }));
  let changed = 0;
  const observer = new MutationObserver((records) => (changed += records.length));
  if (isWhole) observer.observe(prompt, { attributes: true, childList: true, subtree: true });
  const start = performance.now();
  option.dispatchEvent(new PointerEvent("pointerdown", { bubbles: true, cancelable: true, button: 0 }));
  document.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
  await painted();
  const first = performance.now() - start;
  const isSelected = option.getAttribute("aria-selected") === "true";
  let whole = first;
  // What is out of sight may follow in later frames; it is all there when three frames change nothing.
  for (let still = 0; still < 3; ) {
    const before = changed;
    await painted();
    if (changed > before) [whole, still] = [performance.now() - start, 0];
    else still++;
  }
  observer.disconnect();
  return { first, whole, isSelected };
}"""
"""Presses the pointer on an output; milliseconds until the frame with the new selection was painted."""


@dataclass(frozen=True)
class Row:
    """A prompt to be shown."""

    name: str
    tokens: int
    lines: bool = True
    most_milliseconds: float | None = None
    most_megabytes: float | None = None


ROWS = (
    Row("500", 500),
    Row("2000", 2_000, most_megabytes=MOST_MEGABYTES),
    Row("10000", 10_000, most_milliseconds=MOST_MILLISECONDS),
    Row("10000-one-line", 10_000, lines=False, most_milliseconds=MOST_MILLISECONDS),
    Row("20000", 20_000),
)


@dataclass(frozen=True)
class Shown:
    """What a page took; all times but `made` are in milliseconds."""

    megabytes: float
    made: float
    first_paint: float
    shaded: float
    selection: float
    largest: float
    whole: float
    event_timing: float


def long_result(row: Row) -> Attribution:
    """A result with as many tokens of a prompt, and scores of which few are strong."""
    random = np.random.default_rng(0)
    prompt, units = "", list[Unit]()
    for index in range(row.tokens):
        text = ("" if not prompt or prompt.endswith("\n") else " ") + WORDS[random.integers(len(WORDS))]
        text += "." if index % PER_SENTENCE == PER_SENTENCE - 1 else ""
        text += "\n" if row.lines and index % PER_LINE == PER_LINE - 1 else ""
        inside = {"sentence": index // PER_SENTENCE, "line": index // PER_LINE, "paragraph": index // PER_PARAGRAPH}
        start, prompt = len(prompt), prompt + text
        units.append(Unit(text, start, len(prompt), index, index + 1, "prompt", special=False, inside=inside))
    outputs = tuple(Output(f" {WORDS[random.integers(len(WORDS))]}", 5, -0.3) for _ in range(OUTPUTS))
    return Attribution(
        scores=(random.standard_normal((OUTPUTS, row.tokens)) ** 3).astype(np.float32),
        output_scores=None,
        units=tuple(units),
        outputs=outputs,
        prompt=prompt,
        granularity="token",
        method={"name": "input_x_gradient", "options": {}, "signed": True, "unit": "nats"},
        target="logprob",
        ablation=None,
        seed=0,
        model={"name": "m", "architecture": "M", "dtype": "float32", "revision": None},
        cost={"forwards": 1, "backwards": OUTPUTS, "tokens": row.tokens},
        versions={},
    )


def _page(result: Attribution) -> str:
    return result.html_view().page()


def measure(browser: Browser, folder: Path, make: Callable[[], str], selections: int) -> Shown:
    """Makes a page, opens it several times, and selects one output after the other."""
    begun = time.perf_counter()
    content = make()
    made = time.perf_counter() - begun
    path = folder / "page.html"
    path.write_text(content, encoding="utf-8")
    opened = [_open(browser, path) for _ in range(REPEATED)]
    page = opened[-1][0]
    for other, _, _ in opened[:-1]:
        other.context.close()
    places = np.random.default_rng(1).permutation(OUTPUTS)[:selections].tolist()
    _select(page, 0, whole=False)  # the first has things to compute that are kept
    times = [_select(page, place, whole=False)["first"] for place in places]
    whole = [_select(page, place, whole=True)["whole"] for place in places[::4]]
    event_timing = _press(page, places)
    page.context.close()
    return Shown(
        megabytes=path.stat().st_size / 1e6,
        made=made,
        first_paint=median(first for _, first, _ in opened),
        shaded=median(max(first, shaded) for _, first, shaded in opened),
        selection=median(times),
        largest=max(times),
        whole=median(whole),
        event_timing=event_timing,
    )


def _open(browser: Browser, path: Path) -> tuple[Page, float, float]:
    """The page in a context of its own, and when it was first painted and first shaded."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(path.as_uri())
    found: list[float] = page.evaluate("Promise.all([window.painted, window.shaded])")
    page.wait_for_timeout(500)  # what follows the first paint has ended
    return page, found[0], found[1]


def _select(page: Page, place: int, *, whole: bool) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(SELECT, [place, whole])
    if not found["isSelected"]:
        raise RuntimeError(f"output {place} was not selected")
    return found


def _press(page: Page, places: Sequence[int]) -> float:
    """The longest that the browser itself says a real press took until the next paint; below 16 it says nothing."""
    page.evaluate("window.slowest = 0")
    outputs = page.locator("[role=listbox], #output").last.locator("span")
    for place in places:
        option = outputs.nth(place)
        option.scroll_into_view_if_needed()
        box = option.bounding_box()
        if box is None:
            continue
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.up()
        page.wait_for_timeout(60)
    page.wait_for_timeout(200)
    return float(page.evaluate("window.slowest"))


def lines(row: Row, shown: dict[str, Shown]) -> Iterator[str]:
    """The lines of a row in the table, ours first."""
    ours = shown[OURS]
    for who, each in shown.items():
        own = who is OURS
        reached = " / ".join("yes" if fine else "**no**" for _, fine in demands(row, ours))
        cells = (
            f"`{row.name}`" if own else "",
            who,
            f"{each.megabytes:.2f}",
            f"{each.made:.2f}",
            *(f"{value:.0f} ms" for value in (each.first_paint, each.shaded, each.selection, each.largest, each.whole)),
            f"{each.event_timing:.0f} ms" if each.event_timing else "under 16 ms",
            "" if own else f"{each.selection / ours.selection:.2f}",
            " / ".join(told for told, _ in demands(row, ours)) if own else "",
            reached if own else "",
        )
        yield "| " + " | ".join(cells) + " |"


def demands(row: Row, ours: Shown) -> list[tuple[str, bool]]:
    """What our page must reach in this row, and whether it does."""
    found: list[tuple[str, bool]] = []
    if row.most_milliseconds is not None:
        found.append((f"a selection within {row.most_milliseconds:g} ms", ours.selection <= row.most_milliseconds))
    if row.most_megabytes is not None:
        found.append((f"at most {row.most_megabytes:g} MB", ours.megabytes <= row.most_megabytes))
    return found


@contextmanager
def chromium() -> Generator[Browser]:
    """The Chromium that `CHROMIUM` names, or the first in PATH, without a window."""
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), *NAMES))), None)
    if executable is None:
        raise FileNotFoundError(f"found none of {', '.join(NAMES)}; set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[*QUIET, "--no-sandbox"])
        yield browser
        browser.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, row by row; the exit status is 1 where something was missed or could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.view", description=__doc__)
    names = [row.name for row in ROWS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="ROW", help=", ".join(names))
    parser.add_argument("--selections", type=int, default=20, help="how many outputs are selected")
    parser.add_argument("--alone", action="store_true", help="without the naive page")
    options = parser.parse_args(arguments)
    failed = False
    try:
        with chromium() as browser, tempfile.TemporaryDirectory() as folder:
            cores, load = os.cpu_count(), os.getloadavg()[0]
            print(
                f"On {platform.machine()} ({cores} cores, load average {load:.1f} at the start), "
                f"Chromium {browser.version}, {OUTPUTS} outputs, {options.selections} selections.\n",
                *HEADER,
                sep="\n",
                flush=True,
            )
            for row in (row for row in ROWS if row.name in options.only):
                result = long_result(row)
                makers = {OURS: _page} if options.alone else {OURS: _page, NAIVE: naive_page}
                shown = {
                    who: measure(browser, Path(folder), partial(make, result), options.selections)
                    for who, make in makers.items()
                }
                print(*lines(row, shown), sep="\n", flush=True)
                failed |= not all(fine for _, fine in demands(row, shown[OURS]))
    except Exception as error:  # whatever keeps a browser from measuring is told, and is no number
        print(f"Not measured: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
