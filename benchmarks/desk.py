"""What a worker does with a library: it keeps a model, does the work it is asked for, and measures it."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from benchmarks.questions import FORWARD, Answer, Question, Task
from benchmarks.shapes import build_model, word_tokenizer


@dataclass(frozen=True)
class Work:
    """How a library is asked, which is what is timed, and how the scores are read out of what it gives.

    `count` says how many tokens the model was asked for; None where that is not known.
    """

    ask: Callable[[Question], Any]
    read: Callable[[Any, Question], np.ndarray]
    count: Callable[[Any, Question], int] | None = None


Library = Callable[[Any, Any], Mapping[str, Work]]
"""`(model, tokenizer) -> work by name`: what a library can be asked on one model. Preparing it is not timed."""


class Desk:
    """One library on one device. It holds one model at a time, the one that was asked about last.

    Raises `RuntimeError` where the device is "cuda" and there is none.
    """

    def __init__(self, library: Library, device: str, threads: int) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("there is no CUDA device here, or this torch was built without CUDA")
        if threads:
            torch.set_num_threads(threads)
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._library = library
        self._device = device
        self._shape: str | None = None
        self._works: Mapping[str, Work] = {}

    def __call__(self, task: Task) -> Answer:
        """Does the work; seconds and memory are those of the library's call alone."""
        self._hold(task.question.shape)
        work = self._works[task.work]
        gc.collect()
        self._settle()
        before = self._start_of_memory()
        start = time.perf_counter()
        given = work.ask(task.question)
        self._settle()
        seconds = time.perf_counter() - start
        memory = self._peak_of_memory() - before
        tokens = work.count(given, task.question) if work.count else None
        return Answer(seconds, memory, work.read(given, task.question), tokens)

    def _hold(self, shape: str) -> None:
        if shape == self._shape:
            return
        self._shape, self._works = None, {}
        gc.unfreeze()
        gc.collect()
        model = build_model(shape, self._device)
        tokenizer = word_tokenizer(model.config.vocab_size)
        self._works = {FORWARD: _forward(model), **self._library(model, tokenizer)}
        self._shape = shape
        gc.collect()
        gc.freeze()  # what stays need not be looked through before every turn
        _forget_peak()

    def _settle(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _start_of_memory(self) -> int:
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        return _peak_resident()

    def _peak_of_memory(self) -> int:
        return torch.cuda.max_memory_allocated() if self._device == "cuda" else _peak_resident()


def _forward(model: Any) -> Work:
    """One plain forward pass over prompt and output with one row of logits."""

    def ask(question: Question) -> object:
        ids = torch.tensor([[*question.prompt, *question.output]], device=model.device)
        with torch.no_grad():
            return model(input_ids=ids, use_cache=False, logits_to_keep=1)

    return Work(ask, lambda _given, _question: np.zeros((0, 0), np.float32))


def _peak_resident() -> int:
    """The most memory that this process ever had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _forget_peak() -> None:
    """Sets this process's peak back to what it has now, where the system can (Linux).

    Building a model takes more than the model is; what is measured next would otherwise hide below that.
    """
    marks = Path("/proc/self/clear_refs")
    if marks.exists():
        marks.write_text("5")
