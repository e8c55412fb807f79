"""Secret: a key that can be sent, and is in nothing that is shown, copied to disk or passed on."""

from __future__ import annotations

from attribution.errors import InputError

HIDDEN = "***"
_LONG_ENOUGH = 8
"""Characters. Shorter ones are words that local servers take for a key, such as EMPTY, and stand in texts by chance."""


class Secret:
    """A key, or the absence of one. It prints as `***`, and pickles as the absence of one.

    Raises `InputError` for what can be no key: characters that a header cannot carry, a line break for instance.

    >>> Secret("sk-1234")
    ***
    """

    __slots__ = ("_text",)

    def __init__(self, text: str | None) -> None:
        # The text is in no message: not even a part of a key that was mistyped may end in a log.
        if text is not None and not (text.isascii() and text.isprintable() and text == text.strip()):
            raise InputError(
                "Expected the API key as printable ASCII without blanks around it, got one with other characters. "
                "Look for a line break at its end."
            )
        self._text = text or None

    def reveal(self) -> str | None:
        """The key itself, None where there is none. For the header that carries it, and for nothing else."""
        return self._text

    def hide(self, text: str) -> str:
        """`text` with `***` wherever the key stands in it."""
        return text if self._text is None else text.replace(self._text, HIDDEN)

    def is_in(self, text: str) -> bool:
        """Whether the key stands in `text`; False for one so short that it may stand there by chance."""
        return self._text is not None and len(self._text) >= _LONG_ENOUGH and self._text in text

    def __repr__(self) -> str:
        return HIDDEN

    def __bool__(self) -> bool:
        return self._text is not None

    def __reduce__(self) -> tuple[type[Secret], tuple[None]]:
        return Secret, (None,)

    # In the same process a copy is no leak, and a copied client still has to reach its endpoint.
    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self
