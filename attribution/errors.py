"""What can go wrong, as one tree. Every message says what was expected, what came, and what to type.

AttributionError
├── InputError (ValueError)         an argument is wrong
│   ├── ContextWindowError          prompt and output are longer than the model can read
│   └── UnknownMethodError          no method has this name
├── CapabilityError                 the method needs what this model cannot give
├── BudgetError                     the budget ended before there was anything to tell
├── ModelError (RuntimeError)       the model or its tokenizer cannot be used as it is
│   ├── ModelLoadError              nothing could be loaded from there
│   ├── ApiError                    an endpoint refused, failed or did not answer
│   └── NonFiniteError              the model computed NaN or infinity
├── ResultFileError                 a saved result is damaged, newer, or no result at all
└── MissingExtraError (ImportError) an optional package is not installed
"""

from __future__ import annotations


class AttributionError(Exception):
    """The root: `except AttributionError` catches whatever this library raises on purpose."""


class InputError(AttributionError, ValueError):
    """An argument is wrong."""


class ContextWindowError(InputError):
    """Prompt and output together are longer than the model can read."""


class UnknownMethodError(InputError):
    """No attribution method has this name."""


class CapabilityError(AttributionError):
    """The method needs something that this model cannot give, gradients for instance."""


class BudgetError(AttributionError):
    """The budget ended before there was anything to tell."""


class ModelError(AttributionError, RuntimeError):
    """The model or its tokenizer cannot be used as it is."""


class ModelLoadError(ModelError):
    """No model could be loaded from what was given."""


class ApiError(ModelError):
    """An endpoint refused a request, failed, did not answer, or answered what is no answer.

    `status` is the HTTP status that came, None where there was none, or where what came with it was the fault. `kind`
    is what went wrong in a word: the status, "connect", "timeout", "cut", "html", "json", "incomplete" or "error".
    """

    def __init__(self, message: str, status: int | None = None, kind: str = "error") -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


class NonFiniteError(ModelError):
    """The model computed NaN or infinity, so every score would be meaningless."""


class ResultFileError(AttributionError):
    """A file is damaged, was written by a newer version, or holds no result."""


class MissingExtraError(AttributionError, ImportError):
    """An optional package is needed and not installed."""
