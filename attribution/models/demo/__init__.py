"""The embedded model: a small decoder of the Gemma architecture that answers possession questions. See CARD.md."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
"""Holds the weights, the tokenizer and the card, in the layout that `from_pretrained` reads."""
