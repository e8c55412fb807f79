"""Python blocks of README run as tests, in one namespace and an empty folder."""

import contextlib
import os
import tempfile
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# Small models gain nothing from threads, and lose much where other processes want the cores too. Said here, so that it
# holds for the processes too that tests start: the case study takes a quarter of the processor's time.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _enter_empty_folder(namespace: dict[str, Any]) -> None:
    stack = namespace["_stack"] = contextlib.ExitStack()
    stack.enter_context(contextlib.chdir(stack.enter_context(tempfile.TemporaryDirectory())))


def _leave_it(namespace: dict[str, Any]) -> None:
    namespace["_stack"].close()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["README.md"], setup=_enter_empty_folder, teardown=_leave_it
).pytest()
