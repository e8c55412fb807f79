"""Experiments: prompts are changed and results set side by side, to see whether an explanation is true."""
