"""Texts that want to be more than text, and findings that hold them wherever a finding can hold a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from attribution.experiments.comparison import Comparison, compare
from attribution.experiments.counterfactual import Change, Counterfactual, Counterfactuals
from attribution.experiments.verification import Trial, Verification
from attribution.experiments.what_if import Variant, WhatIf
from attribution.result import Attribution, Interaction, Output, Unit
from attribution.surfaces import Surfaces

LONG = "x" * 10_000

CORPUS: dict[str, str] = {
    # Markup that ends what holds it
    "script": "</script><script>alert(1)</script>",
    "script in capitals": "</SCRIPT ><img src=x onerror=alert(1)>",
    "style": "</style><style>*{display:none}</style>",
    "iframe": "</iframe><iframe src=javascript:alert(1)></iframe>",
    "noscript": "</noscript><svg onload=alert(1)>",
    "pre": "</pre></td></table><h1>big</h1>",
    "textarea": "</textarea></title></option></select><input autofocus onfocus=alert(1)>",
    "template": "</template></main></body></html><p>after the end",
    "comment": "<!--<script>",
    "end of a comment": "--!>--><img src=x>",
    "cdata": "]]><![CDATA[<b>",
    "processing": '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>&e;',
    "entities": "&lt;b&gt;&quot;&#39;&amp;&#x3c;script&#62;&nbsp",
    "double quotes": '" onmouseover="alert(1)" x="',
    "single quotes": "' onfocus='alert(1)' autofocus x='",
    "backticks": "`${alert(1)}` {{constructor.constructor('alert(1)')()}}",
    "image": "<img src=https://example.org/x.png onerror=alert(1)>",
    "link": "<a href=javascript:alert(1)>x</a><base href=https://example.org>",
    "meta": "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "form": "<form action=https://example.org><button autofocus formaction=javascript:alert(1)>",
    "mutation": "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    # Addresses, styles, other languages
    "javascript": "javascript:alert(1)",
    "javascript with tabs": "java\tscript\n:alert(1)",
    "data address": "data:text/html,<script>alert(1)</script>",
    "style rule": "x;} * {background:url(https://example.org/x)} /*",
    "expression": "width:expression(alert(1));-moz-binding:url(//example.org)",
    "import": "@import 'https://example.org/x.css';",
    "json": '"}]},"x":{"__proto__":{"y":1}}\\',
    "json escapes": '\\u003cscript\\u003e\\" \\',
    "property": "__proto__",
    "other property": "constructor",
    "separators": "a\u2028alert(1)\u2029b",
    "markdown": "![x](https://example.org/x.png) [y](javascript:alert(1)) **b** `c`",
    "rich": "[bold red]x[/] [link=file:///etc/passwd]y[/link] [@click=app.bell]z[/] :smile: [/]",
    "tex": r"$\input{/etc/passwd}$ \(x\) \[y\] \immediate\write18{id}",
    "mathtext": r"$x^2$ $\frac{1}{2}$ $",
    "legend": "_nolegend_",
    "formula": '=HYPERLINK("https://example.org",1)',
    "formula with plus": "+1+cmd|' /C calc'!A0",
    "formula with minus": "-2+3",
    "formula with at": "@SUM(1+1)",
    "format": "%s%n {0} {x.__class__} %(a)s",
    # What turns or hides text
    "right to left override": "a\u202edlrow\u202c b",
    "isolates": "\u2066a\u2067b\u2068c\u2069",
    "embeddings": "\u202aa\u202bb\u202c\u200e\u200f\u061c",
    "unended override": "safe\u202e",
    "arabic": "مرحبا 3 שלום",
    "joiners": "pass\u200dword\u200c",
    "emoji": "👩\u200d👩\u200d👧 🏳️\u200d🌈 می\u200cخواهم",
    "zero width": "a\u200bb\u2060c\u2063d",
    "byte order mark": "\ufeffa\ufeff",
    "soft hyphen": "pass\u00adword",
    "tags": "a\U000e0041\U000e0042\U000e007f",
    "tower": "Z\u0351\u036b\u0343\u036a\u0302" + "\u0310" * 60 + "a",
    "noncharacters": "\ufffe\uffff\U0010ffff\ue000",
    "annotation": "\ufff9a\ufffab\ufffb",
    # Terminals
    "colours": "\x1b[31;1mred\x1b[0m",
    "screen": "\x1b[2J\x1b[H\x1b[3J\x1b[?1049h\x1b[?25l",
    "title": "\x1b]0;title\x07",
    "hyperlink": "\x1b]8;;https://example.org\x1b\\x\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;cm0gLXJmIC8=\x07",
    "device control": '\x1bP$q"p\x1b\\ \x1b_x\x1b\\ \x1b^y\x1b\\ \x1bX z\x1b\\',
    "answer back": "\x1b[c\x1b[6n\x05\x1bZ",
    "reset": "\x1bc\x1b(0\x0eqqq\x0f",
    "c1": "\x9b31m\x9d0;x\x9c\x90q\x9c\x85\x84",
    "bell": "a\x07\x07",
    "backspace": "safe\b\b\b\bevil\x7f",
    "carriage return": "safe\revil",
    "feeds": "a\x0bb\x0cc\x1cd\x1ee",
    "line ends": "a\r\nb\n\rc",
    "nul": "a\x00b",
    # Characters that UTF-8 does not have
    "half": "\ud800",
    "other half": "a\udc80b\udfff",
    # Sizes
    "long": LONG,
    "blank": " \t ",
    "newlines": "\n\na\n\n",
}
TEXTS = list(CORPUS.values())

SHORT = [text for text in TEXTS if text != LONG]

_HIDDEN = (
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
"""What no surface may show as it is; and halves of characters, and tags."""

INVISIBLE = {
    "variation selectors": "a\ufe00\U000e0100\U000e01ef",
    "fillers": "\u115f\u1160\u3164\uffa0",
    "grapheme joiner": "pass\u034fword",
    "mongolian selectors": "a\u180b\u180c\u180d\u180fb",
}
"""Not seen either, though Unicode counts them as letters or marks."""

PAIRED = "\ud83d" + "\ude00"
"""Two halves that JSON, and JavaScript, take for one character."""


def hidden(text: str) -> list[str]:
    """The characters that must not be shown as they are."""
    return [c for c in text if re.match(_HIDDEN, c) or "\ud800" <= c <= "\udfff" or "\U000e0000" <= c <= "\U000e007f"]


def harmless(text: str) -> str:
    """Letters in the place of all but white space, as long in UTF-16: what is made of it has the same structure."""

    def letter(character: str) -> str:
        if character.isspace():
            return character if character in " \n\t" else " "
        return chr(ord("a") + ord(character) % 26) * (2 if ord(character) > 0xFFFF else 1)

    return "".join(map(letter, text))


def chunks(texts: Sequence[str], size: int = 180) -> Iterator[str]:
    """All but the long ones, several in one text of at most so many characters: nothing that a view would cut."""
    held = ""
    for text in texts:
        if len(text) > size:
            continue
        if held and len(held) + len(text) >= size:
            yield held
            held = ""
        held += text + " "
    yield held


FIELDS = list(chunks(TEXTS))
TAME = [harmless(text) for text in TEXTS]


def result(texts: Sequence[str], name: str, *, between: str = " ", chat: bool = True, **changes: Any) -> Attribution:
    """A result with these texts as units, roles, outputs and alternatives, and `name` for whatever has one name."""
    units: list[Unit] = []
    prompt, count = "", len(texts)
    for index, text in enumerate(texts):
        start = len(prompt)
        prompt += text
        # Every text is a role too, in another place than as a unit.
        role = texts[(index + 5) % count] if chat else "prompt"
        units.append(
            Unit(
                text=text,
                start=start,
                end=len(prompt),
                first_token=index,
                last_token=index + 1,
                role=role,
                special=index == 1,
                name=texts[(index + 3) % count] if index % 3 == 0 else "",
                message=index // 4 if chat else None,
                place=name,
                inside={"sentence": index // 3},
            )
        )
        prompt += between
    units.append(Unit(name, len(prompt), len(prompt), count, count + 1, "special", True))
    signs = np.where(np.arange(count) % 2, -1.0, 1.0)
    row = np.append(signs * np.linspace(1.0, 2.0, count), 0.25)
    outputs = tuple(
        Output(text, index, -0.5, ((text, -0.5), (other, -1.5)))
        for index, (text, other) in enumerate(zip(texts, [*texts[1:], texts[0]], strict=True))
    )
    parts: dict[str, Any] = {
        "scores": np.tile(row, (count, 1)).astype(np.float32),
        "output_scores": None,
        "units": tuple(units),
        "outputs": outputs,
        "prompt": prompt,
        "granularity": name,
        "method": {"name": name, "options": {name: name}, "signed": True, "unit": name},
        "target": name,
        "ablation": name,
        "seed": 0,
        "model": {"name": name, "architecture": name, "dtype": name, "revision": name},
        "cost": {"forwards": 1, "backwards": 0, "tokens": 1},
        "versions": {name: name},
        "question": {"over_outputs": name},
        "errors": np.full((count, count + 1), 0.01, np.float32),
        "interactions": (Interaction(0, 2, (0.5,) * count), Interaction(2, 3, (-0.5,) * count)),
        "notes": {
            "completeness_error": [0.5],
            "joint": [{"units": [2, 4], "drop": [1.0] * count}],
            "swallowed": [{"message": 0, "place": name}],
            "recovered": [{"message": name, "place": name}],
            "left_out": [{"start": 0, "end": 2, "message": 0, "place": name}],
            "half_characters": 1,
        },
    }
    return Attribution(**parts | changes)


def comparison(texts: Sequence[str], name: str) -> Comparison:
    """The same beside a result with these texts in the opposite order."""
    return compare(result(texts, name), result(texts[::-1], name))


def verification(texts: Sequence[str], name: str) -> Verification:
    """A result that was acted on, of the first three outputs."""
    trial = Trial(value=1.0, effect=2.0, controls=(0.5,) * 19, rounding=1e-5)
    return Verification(
        result=result(texts, name),
        outputs=(0, 1, 2),
        strongest=(0, 2, 4),
        full=3.0,
        nothing=0.5,
        removed=trial,
        alone=trial,
        sets=((2, 3, 4),) * 19,
        n_sets=40,
        unit=name,
        model={"name": name, "architecture": name, "dtype": name, "revision": name},
        cost={"forwards": 40, "backwards": 0, "tokens": 400},
    )


def what_if(texts: Sequence[str], name: str) -> WhatIf:
    """A chat whose texts and roles are these; with every edit one message is another text."""
    messages = [{"role": texts[(i + 5) % len(texts)], "content": text} for i, text in enumerate(texts)]
    variants = tuple(
        Variant(
            edit=text,
            prompt={"messages": [{"role": text, "content": text}, *messages[1:]]},
            output=text,
            value=0.5,
            change=-1.0,
            changed=index % 2 == 0,
        )
        for index, text in enumerate(texts)
    )
    return WhatIf(
        prompt={"messages": messages},
        output=" ".join(texts),
        asked=name,
        answer=" ".join(texts),
        target=name,
        unit=name,
        value=-0.5,
        variants=variants,
        max_new_tokens=20,
        model={"name": name, "architecture": name, "dtype": name, "revision": name},
        versions={name: name},
    )


def counterfactuals(texts: Sequence[str], name: str) -> Counterfactuals:
    """A prompt of these texts, each of which another replaces."""
    shown = result(texts, name)
    found = tuple(
        Counterfactual(
            changes=(Change(index, text, texts[index - 1], f"'{text}'", (0, 1)),),
            prompt=text + shown.prompt,
            output=text,
            change=-1.0,
        )
        for index, text in enumerate(texts)
    )
    return Counterfactuals(
        prompt=shown.prompt,
        output=" ".join(texts),
        found=found,
        tried=99,
        limited_by=("keep", "max_tries"),
        cost={"forwards": 1, "backwards": 0, "tokens": 1},
        attribution=shown,
    )


KINDS: dict[str, Callable[[Sequence[str], str], Surfaces]] = {
    "result": result,
    "comparison": comparison,
    "verification": verification,
    "whatif": what_if,
    "counterfactuals": counterfactuals,
}
"""What makes a finding of each kind out of texts, and a name for all that has one."""
