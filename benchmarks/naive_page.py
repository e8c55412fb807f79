"""The page that a person would write in an hour: what the view is held against."""

from __future__ import annotations

import json
from html import escape

from attribution.result import Attribution

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Scores</title>
<style>#prompt { white-space: pre-wrap; height: 60vh; overflow: auto } .chosen { outline: 2px solid }</style>
<p id="prompt">PROMPT</p>
<p id="output">OUTPUT</p>
<script>
const scores = SCORES;
const units = document.querySelectorAll("#prompt span");
const outputs = document.querySelectorAll("#output span");
function show(chosen) {
  const row = scores[chosen];
  const most = Math.max(...row.map(Math.abs));
  units.forEach((unit, index) => {
    const share = row[index] / most;
    unit.style.background = `rgba(${share > 0 ? "0, 90, 200" : "220, 100, 0"}, ${Math.abs(share)})`;
  });
  outputs.forEach((output, index) => {
    output.className = index === chosen ? "chosen" : "";
    output.setAttribute("aria-selected", index === chosen);
  });
}
outputs.forEach((output, index) => output.addEventListener("pointerdown", () => show(index)));
show(0);
</script>
"""


def naive_page(result: Attribution) -> str:
    """One span per token, coloured anew with every selection; the scores as JSON with three decimals."""
    scores = [[round(score, 3) for score in row] for row in result.scores.tolist()]
    prompt = "".join(f"<span>{escape(result.prompt[unit.start : unit.end])}</span>" for unit in result.units)
    output = "".join(f"<span>{escape(output.text)}</span>" for output in result.outputs)
    return PAGE.replace("SCORES", json.dumps(scores)).replace("OUTPUT", output).replace("PROMPT", prompt)
