"""Rows of a benchmark: who is asked what and what must come out, and how that is measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from benchmarks.questions import FORWARD, Answer, Question, Task
from benchmarks.workers import Worker, WorkerError

OURS = "attribution"

SECONDS_PER_ROW = 120.0
"""No further round is begun that would probably end after this."""

SECONDS_PER_TURN = 3.0
TIMES_PER_TURN = 3
"""In a turn the work is done again until this much time is spent, but no more often than this."""


@dataclass(frozen=True)
class Peer:
    """Another library's work, or other work of ours, that a row is compared with.

    It must cost at least `times` as much as ours; None where nothing is asked. Its answer must be as like ours as
    `cosine` (1: the same up to a factor); None where it answers another question. Where it answers a question that we
    can be asked too, but that is not the one that is timed, `like` is our work for that: then the two answers to the
    tiny question of the warm-up are compared, and no others.
    """

    library: str
    work: str
    times: float | None
    cosine: float | None = 0.999
    like: str | None = None


@dataclass(frozen=True)
class Row:
    """A piece of our work for one question, and what it is compared with.

    `measure` says what a cost is: time, of which ours must be at most `at_most` F, peak memory, or the tokens that the
    model was asked for.
    """

    name: str
    question: Question
    work: str
    peers: tuple[Peer, ...]
    at_most: float | None = None
    measure: Literal["time", "memory", "tokens"] = "time"


@dataclass
class Contestant:
    """One who is measured: each cost that counted (seconds, bytes or tokens), the last scores, and F in its process."""

    library: str
    work: str
    costs: list[float] = field(default_factory=list[float])
    scores: np.ndarray | None = None
    failure: str | None = None
    """Why there is no cost. Who fails once is not asked again."""
    forward: float | None = None
    """Median seconds of a plain forward pass; None where something else than time is measured."""
    alike: float | None = None
    """The cosine of its scores to ours, where they are asked to be alike."""

    @property
    def cost(self) -> float | None:
        """The median."""
        return statistics.median(self.costs) if self.costs and self.failure is None else None


@dataclass(frozen=True)
class Measurement:
    """A row as measured; `peers` are in the order of the row's."""

    row: Row
    rounds: int
    ours: Contestant
    peers: tuple[Contestant, ...]


def measure(row: Row, workers: Callable[[str], Worker], start: Callable[[str], Worker], rounds: int) -> Measurement:
    """Measures a row. `workers` gives the long-lived worker of a library, `start` starts one of its own."""
    ours = Contestant(OURS, row.work)
    peers = tuple(Contestant(peer.library, peer.work) for peer in row.peers)
    if row.measure == "time":
        counted = _measure_time(row, ours, peers, workers, rounds)
    elif row.measure == "memory":
        _measure_memory(row, (ours, *peers), start)
        counted = 1
    else:
        _count_tokens(row, (ours, *peers), workers)
        counted = 1
    _compare(row, row.question, ours, peers)
    return Measurement(row, counted, ours, peers)


def cosine(a: np.ndarray | None, b: np.ndarray | None) -> float | None:
    """How alike two answers of one shape are."""
    if a is None or b is None or a.shape != b.shape:
        return None
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


def _measure_time(
    row: Row, ours: Contestant, peers: Sequence[Contestant], workers: Callable[[str], Worker], rounds: int
) -> int:
    """Fills in the costs and says how many rounds were counted.

    In a round everyone takes a turn, and we take another one at its end: the peers' may be long, and the machine may
    be another one after them. The first round warms up with a tiny question, shows whether all answer alike, and does
    not count. How many are counted follows from how long the first of them takes.
    """
    order = (ours, *peers, ours)
    forwards: dict[str, list[float]] = {contestant.library: [] for contestant in order}
    tiny = row.question.tiny
    _round(order, forwards, tiny, workers)
    _compare(row, tiny, ours, peers)
    _compare_likes(row, tiny, peers, workers(OURS))
    for kept in (*(contestant.costs for contestant in order), *forwards.values()):
        kept.clear()
    start = time.perf_counter()
    counted = 0
    while counted < rounds:
        _round(order, forwards, row.question, workers)
        counted += 1
        each = (time.perf_counter() - start) / counted
        if each * (counted + 1) > SECONDS_PER_ROW:
            break
    for contestant in order:
        taken = forwards[contestant.library]
        contestant.forward = statistics.median(taken) if taken else None
    return counted


def _round(
    order: Sequence[Contestant],
    forwards: dict[str, list[float]],
    question: Question,
    workers: Callable[[str], Worker],
) -> None:
    """A turn of each: plain forward passes in its process, and its work. Who has failed takes no part."""
    for contestant in order:
        library = contestant.library
        if contestant.failure and library != OURS:  # costs are counted in F of our process, whatever else it cannot do
            continue
        try:
            forwards[library] += [answer.seconds for answer in _turn(workers(library), FORWARD, question)]
            if contestant.failure:
                continue
            answers = _turn(workers(library), contestant.work, question)
        except WorkerError as error:
            contestant.failure = str(error)
        else:
            contestant.costs += [answer.seconds for answer in answers]
            contestant.scores = answers[-1].scores


def _turn(worker: Worker, work: str, question: Question) -> list[Answer]:
    """The work done once, or where it is short some times."""
    answers = [_ask(worker, work, question)]
    while len(answers) < TIMES_PER_TURN and sum(answer.seconds for answer in answers) < SECONDS_PER_TURN:
        answers.append(_ask(worker, work, question))
    return answers


def _measure_memory(row: Row, contestants: Sequence[Contestant], start: Callable[[str], Worker]) -> None:
    """Peak memory above that of the loaded model after one tiny call, everyone alone in a fresh process."""
    for contestant in contestants:
        try:
            with start(contestant.library) as worker:
                _ask(worker, contestant.work, row.question.tiny)
                answer = _ask(worker, contestant.work, row.question)
        except WorkerError as error:
            contestant.failure = str(error)
        else:
            contestant.costs.append(answer.memory)
            contestant.scores = answer.scores


def _count_tokens(row: Row, contestants: Sequence[Contestant], workers: Callable[[str], Worker]) -> None:
    """The tokens that each asks the model for; the same every time, so that once is enough."""
    for contestant in contestants:
        try:
            answer = _ask(workers(contestant.library), contestant.work, row.question)
        except WorkerError as error:
            contestant.failure = str(error)
            continue
        contestant.scores = answer.scores
        if answer.tokens is None:
            contestant.failure = "it does not count tokens"
        else:
            contestant.costs.append(answer.tokens)


def _ask(worker: Worker, work: str, question: Question) -> Answer:
    answer: Answer = worker.ask(Task(work, question))
    return answer


def _compare(row: Row, question: Question, ours: Contestant, peers: Sequence[Contestant]) -> None:
    """Who scored another number of units than was asked, or something else than we did, has failed.

    So has who does not find the planted causes.
    """
    for contestant in (ours, *peers):
        scores, expected = contestant.scores, len(question.units)
        if scores is None or contestant.failure:
            continue
        if scores.shape[1] != expected:
            contestant.failure = f"it scored {scores.shape[1]} units, not {expected}"
        elif question.causes and (found := _strongest(scores, len(question.causes))) != question.causes:
            contestant.failure = f"it finds the causes {found}, planted were {question.causes}"
    for peer, wanted in zip(peers, row.peers, strict=True):
        if wanted.like is None and ours.failure is None and ours.scores is not None:
            _judge(peer, wanted, ours.scores)


def _compare_likes(row: Row, question: Question, peers: Sequence[Contestant], worker: Worker) -> None:
    """The same for peers whose answer is to be like that of other work of ours."""
    for peer, wanted in zip(peers, row.peers, strict=True):
        if wanted.like is None or peer.failure:
            continue
        try:
            scores = _ask(worker, wanted.like, question).scores
        except WorkerError as error:
            peer.failure = f"ours does not say what it should answer: {error}"
        else:
            _judge(peer, wanted, scores)


def _judge(peer: Contestant, wanted: Peer, expected: np.ndarray) -> None:
    """Whether a peer's scores are those that are expected."""
    if peer.failure or peer.scores is None:
        return
    alike = cosine(expected, peer.scores)
    peer.alike = None if wanted.cosine is None else alike
    if alike is None:
        peer.failure = f"it scored {len(peer.scores)} outputs where ours scored {len(expected)}"
    elif wanted.cosine is not None and not alike >= wanted.cosine:
        peer.failure = f"it answers something else: the cosine to ours is {alike:.4f}"


def _strongest(scores: np.ndarray, count: int) -> tuple[int, ...]:
    """The units that do most for the outputs, up or down, in their order in the prompt."""
    return tuple(sorted(np.argsort(-np.abs(scores).sum(0))[:count].tolist()))
