"""Pictures held against references in `tests/screenshots/`; `UPDATE_SCREENSHOTS=1` writes those anew.

Two machines never draw text alike to the pixel. Pictures are therefore compared in blocks of 8 x 8 pixels, by the
mean colour of each: another rasterisation of a letter leaves that nearly as it was, a box in another place does not.
Fonts of other widths move everything; then there is nothing to compare. Each reference keeps, within its file, the
widths that it was drawn with.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

FOLDER = Path(__file__).parent / "screenshots"
ANEW = "UPDATE_SCREENSHOTS=1 pytest ..."
BLOCK = 8
DIFFERS = 20.0
"""Levels of 255, in any channel, from which on a block's mean colour is another: text moved by 0.4 pixels makes 17."""
TOLERATED = 0.0003
"""Share of the blocks that may differ: 3 of a page of 1000 x 800 pixels."""
LATE = 3
"""How many more pictures are taken of a page that looks different, half a second apart."""

FAMILIES = ("system-ui, sans-serif", "bold system-ui, sans-serif", "monospace", "bold monospace")
_WIDTHS = """families => {
    const pen = document.createElement('canvas').getContext('2d');
    return families.map(family => {
        const [weight, name] = family.startsWith('bold ') ? ['bold', family.slice(5)] : ['', family];
        pen.font = `${weight} 100px ${name}`;
        return Math.round(pen.measureText('Sphinx of black quartz, judge my vow: 0123456789 →·␣').width);
    });
}"""


def picture(shown: Page | Locator, *, full_page: bool = False) -> bytes:
    """The PNG of what is seen, with animations at their end."""
    # The caret is left alone: hiding it takes a style sheet, which a page's policy may refuse.
    if full_page:
        return shown.screenshot(animations="disabled", caret="initial", full_page=True)
    return shown.screenshot(animations="disabled", caret="initial")


def compare_screenshot(
    shown: Page | Locator | bytes,
    name: str,
    *,
    full_page: bool = False,
    tolerated: float = TOLERATED,
    folder: Path = FOLDER,
) -> None:
    """Fails where this page, part of a page or PNG looks other than `NAME.png` among the references."""
    reference = folder / f"{name}.png"
    drawn = shown if isinstance(shown, bytes) else picture(shown, full_page=full_page)
    widths = None if isinstance(shown, bytes) else font_widths(shown)
    if os.environ.get("UPDATE_SCREENSHOTS"):
        _write(reference, drawn, widths)
        return
    if not reference.exists():
        kept = _keep(name, actual=drawn)
        pytest.fail(f"There is no {reference}. If {kept} is as it should be: {ANEW}", pytrace=False)
    with Image.open(reference) as image:
        recorded = json.loads(image.info.get("fonts", "null"))
        expected = numpy.asarray(image.convert("RGB"))
    if recorded is not None and widths is not None and recorded != widths:
        reason = f"{name}.png was drawn with other fonts: they were {recorded} pixels wide, here {widths}"
        if os.environ.get("CI"):
            pytest.skip(reason)
        print(f"Not compared: {reason}")
        return
    if not isinstance(shown, bytes):
        for _ in range(LATE):  # on a busy machine the last of the layout may come after the first picture
            if _is_alike(_pixels(drawn), expected, tolerated):
                break
            time.sleep(0.5)
            drawn = picture(shown, full_page=full_page)
    actual = _pixels(drawn)
    if actual.shape != expected.shape:
        kept = _keep(name, actual=drawn, expected=reference.read_bytes())
        pytest.fail(f"{name}: {_size(actual)} pixels instead of {_size(expected)}; see {kept}", pytrace=False)
    apart = block_differences(expected, actual)
    differing = apart > DIFFERS
    if differing.mean() > tolerated:
        marked = _png(_marked(actual, differing))
        kept = _keep(name, actual=drawn, expected=reference.read_bytes(), difference=marked)
        pytest.fail(
            f"{name}: {differing.sum()} of {differing.size} blocks look different, by up to {apart.max():.0f} of 255 "
            f"levels (mean {apart.mean():.2f}); see {kept}. If that is meant: {ANEW}",
            pytrace=False,
        )


def _is_alike(actual: numpy.ndarray, expected: numpy.ndarray, tolerated: float) -> bool:
    if actual.shape != expected.shape:
        return False
    return bool((block_differences(expected, actual) > DIFFERS).mean() <= tolerated)


def font_widths(shown: Page | Locator) -> list[int]:
    """How wide a sentence is in the fonts of this machine, for each of `FAMILIES`."""
    from playwright.sync_api import Locator

    page = shown.page if isinstance(shown, Locator) else shown
    return page.evaluate(_WIDTHS, list(FAMILIES))


def block_differences(first: numpy.ndarray, second: numpy.ndarray) -> numpy.ndarray:
    """How far the mean colours of blocks are apart: [block row, block column], levels of 255 in the worst channel."""
    return numpy.abs(_blocks(first) - _blocks(second)).max(axis=-1)


def _blocks(pixels: numpy.ndarray) -> numpy.ndarray:
    height, width, channels = pixels.shape
    # Edges that fill no block are filled up with themselves.
    padded = numpy.pad(pixels, ((0, -height % BLOCK), (0, -width % BLOCK), (0, 0)), mode="edge").astype(numpy.float32)
    rows, columns = padded.shape[0] // BLOCK, padded.shape[1] // BLOCK
    return padded.reshape(rows, BLOCK, columns, BLOCK, channels).mean(axis=(1, 3))


def _marked(pixels: numpy.ndarray, differing: numpy.ndarray) -> numpy.ndarray:
    """The picture, pale, with the blocks that differ in red."""
    mask = differing.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[: pixels.shape[0], : pixels.shape[1]]
    pale = (pixels // 3 + 170).astype(numpy.uint8)
    pale[mask] = pixels[mask] // 2 + numpy.array([127, 0, 0], dtype=numpy.uint8)
    return pale


def _pixels(png: bytes) -> numpy.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return numpy.asarray(image.convert("RGB"))


def _size(pixels: numpy.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def _png(pixels: numpy.ndarray, notes: PngInfo | None = None) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG", optimize=True, pnginfo=notes)
    return written.getvalue()


def _write(reference: Path, drawn: bytes, widths: list[int] | None) -> None:
    notes = PngInfo()
    notes.add_text("fonts", json.dumps(widths))
    reference.parent.mkdir(exist_ok=True)
    reference.write_bytes(_png(_pixels(drawn), notes))


def _keep(name: str, **pictures: bytes) -> Path:
    """The folder where these pictures were put, to be looked at."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    for title, png in pictures.items():
        (folder / f"{title}.png").write_bytes(png)
    return folder
