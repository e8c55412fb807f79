"""A finding as a web page of one file, and as what a notebook shows.

Prompts and outputs are untrusted. They reach the page as JSON, in which nothing can end the element that holds it, and
`view.js` writes them as text; the page's policy allows its own script and style by their hashes, and nothing else. What
is written as HTML goes through `html.escape`, and what a reader cannot see is shown as a mark.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

from attribution.views.web.summary import Summary, heading, preformatted, style_sheet

_TITLES = {
    "comparison": "two results side by side",
    "verification": "does the explanation hold?",
    "whatif": "what if",
    "counterfactuals": "counterfactuals",
}

_START = """
mount(
  document.getElementById("attribution-view"),
  JSON.parse(document.getElementById("attribution-payload").textContent),
).catch((error) => {
  document.getElementById("attribution-view").textContent = `This browser cannot show the view: ${error}`;
});
"""
"""What the page's script does after view.js, the same for every page."""

_ENDINGS = ("</script", "</style", "<!--")

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}

_FRAME = "attribution-frame"
_SUMMARY = "attribution-summary"
_LINE = 22  # pixels of a line of text
_WIDTH = 90  # characters of one
_LISTED = 8  # units that should be seen at first
_HEIGHTS = (420, 900)


class HtmlView:
    """A finding for browsers and notebooks.

    `payload` is what `view.js` shows. `text` is the finding in plain text, which stands where no scripts run; a result
    needs none, since its prompt is shaded there.
    """

    def __init__(self, payload: Mapping[str, Any], text: str = "") -> None:
        self._payload = payload
        self._text = text

    def page(self) -> str:
        """A whole HTML file that loads nothing, and in which nothing but its own script runs."""
        script, style = _asset("view.js") + _START, f"{_asset('view.css')}\n{style_sheet()}"
        policy = "; ".join(
            [
                "default-src 'none'",
                f"script-src '{_fingerprint(script)}'",
                f"style-src '{_fingerprint(style)}'",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
                "require-trusted-types-for 'script'",
            ]
        )
        return "\n".join(
            [
                "<!doctype html>",
                '<html lang="en">',
                "<head>",
                '<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<meta name="color-scheme" content="light dark">',
                f"<title>{escape(self._title())}</title>",
                f"<style>{style}</style>",
                "</head>",
                "<body>",
                '<main id="attribution-view"></main>',
                f"<noscript>\n{self._summary(inline=False)}\n</noscript>",
                f'<script type="application/json" id="attribution-payload">{_embedded(self._payload)}</script>',
                f'<script type="module">{script}</script>',
                "</body>",
                "</html>",
                "",
            ]
        )

    def notebook(self) -> str:
        """The page in a frame of its own, and the same without scripts, which is seen where the frame is taken away."""
        page = self.page()
        # Of both quotes the one that is rarer in the page.
        quote, other = ("'", "&#39;") if page.count("'") <= page.count('"') else ('"', "&quot;")
        content = page.replace("&", "&amp;").replace(quote, other)
        style = f"width:100%;height:{self._height()}px;border:0;resize:vertical;overflow:auto"
        return "\n".join(
            [
                "<div>",
                # Hides the summary only where the frame with its page is still before it.
                f"<style>iframe.{_FRAME}[srcdoc] + .{_SUMMARY} {{ display: none }}</style>",
                f'<iframe class="{_FRAME}" sandbox="allow-scripts allow-downloads" style="{style}" '
                f'title="{escape(self._title())}" srcdoc={quote}{content}{quote}></iframe>',
                # Dollar signs in a prompt are no formulas.
                f'<div class="{_SUMMARY} tex2jax_ignore mathjax_ignore">',
                self._summary(inline=True),
                "</div>",
                "</div>",
            ]
        )

    def _title(self) -> str:
        kind: str = self._payload["kind"]
        if kind == "result":
            return f"Attribution: {heading(self._payload['panels'][0]['layers'][0])}"
        return f"Attribution: {_TITLES[kind]}"

    def _summary(self, *, inline: bool) -> str:
        if self._text:
            return preformatted(self._text, inline=inline)
        if self._payload["kind"] == "result":
            return str(Summary(self._payload, inline=inline))
        return "\n".join(preformatted(panel["prompt"], inline=inline) for panel in self._payload["panels"])

    def _height(self) -> int:
        """Pixels of the frame: more for longer texts, and for a list of units, within bounds."""
        texts = [panel["prompt"] + "".join(panel["outputs"]["texts"]) for panel in self._payload["panels"]]
        lines = max(sum(1 + len(line) // _WIDTH for line in text.split("\n")) for text in texts)
        listed = _LISTED if any(panel["layers"] for panel in self._payload["panels"]) else 0
        least, most = _HEIGHTS
        return min(least + _LINE * (lines + listed), most)


def _asset(name: str) -> str:
    """A file of the view, which must not end the element that it is put into."""
    text = files("attribution.views").joinpath(name).read_text("utf-8").replace("\r\n", "\n")
    found = [ending for ending in _ENDINGS if ending in text.lower()]
    if found:
        raise RuntimeError(f"Expected {name} without {found[0]!r}, which would end its element in the page.")
    return text


def _fingerprint(text: str) -> str:
    """The hash by which a content security policy allows an inline script or style."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}"


def _embedded(payload: Mapping[str, Any]) -> str:
    """JSON in ASCII without any character that means something in HTML."""
    text = json.dumps(payload, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character, escaped in _ESCAPES.items():
        text = text.replace(character, escaped)
    return text
