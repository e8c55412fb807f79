"""README's pictures of the view, light and dark, of the embedded model's own result: `python -m docs.screenshot`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import attribution
from tests.browser import chromium, find_chromium, open_page

FOLDER = Path(__file__).parent
PROMPT = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
SIZE = {"width": 1040, "height": 500}


def main() -> None:
    """Writes `view-light.png` and `view-dark.png` beside this file."""
    executable = find_chromium()
    if executable is None:
        sys.exit("Chromium is needed: apt-get install chromium, or set CHROMIUM to its path")
    result = attribution.explain(attribution.load("demo"), PROMPT, method="leave_one_out")
    with tempfile.TemporaryDirectory() as folder, chromium(executable) as browser:
        report = Path(folder) / "report.html"
        result.to_html(report, outputs="3")
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport=SIZE, device_scale_factor=2, color_scheme=scheme)
            open_page(page, report)
            page.screenshot(path=FOLDER / f"view-{scheme}.png", animations="disabled", caret="initial")


if __name__ == "__main__":
    main()
