"""The table of a benchmark, in Markdown: some lines for each row, ours first and then those it is compared with."""

from __future__ import annotations

from benchmarks.rows import OURS, Contestant, Measurement, Peer, Row

HEADER = (
    "| row | N | T | rounds | who | F there | cost | times ours | cosine | must reach | reached |",
    "|---|--:|--:|--:|---|--:|--:|--:|--:|---|---|",
)


def table_lines(measurement: Measurement) -> list[str]:
    """The lines of one row."""
    row, ours = measurement.row, measurement.ours
    question = row.question
    about = (f"`{row.name}`", str(question.n), str(question.t), str(measurement.rounds))
    lines = [
        _line(*about, OURS, *_costs(row, ours, ours), "", "", _own_demand(row), _verdict(ours, _own_success(row, ours)))
    ]
    for peer, wanted in zip(measurement.peers, row.peers, strict=True):
        who = peer.library if peer.work == row.work else f"{peer.library}: {peer.work}"
        ratio = _ratio(ours, peer)
        lines.append(
            _line(
                *[""] * len(about),
                who,
                *_costs(row, ours, peer),
                "" if ratio is None else f"{ratio:.2f}",
                "" if peer.alike is None else f"{peer.alike:.4f}",
                _demand(wanted),
                _verdict(peer, None if ratio is None or wanted.times is None else ratio >= wanted.times),
            )
        )
    return lines


def failures(measurement: Measurement) -> list[str]:
    """What could not be measured, and why."""
    return [
        f"{measurement.row.name}: {contestant.library} failed: {contestant.failure}"
        for contestant in (measurement.ours, *measurement.peers)
        if contestant.failure
    ]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _costs(row: Row, ours: Contestant, contestant: Contestant) -> tuple[str, str]:
    """F in the contestant's process, and its cost, which is counted in F of ours."""
    forward = "" if contestant.forward is None else f"{contestant.forward * 1000:.1f} ms"
    if contestant.cost is None:
        return forward, ""
    if row.measure == "memory":
        return forward, f"{contestant.cost / 2**20:.0f} MiB"
    if row.measure == "tokens":
        return forward, f"{contestant.cost:,.0f} tokens"
    return forward, "" if ours.forward is None else f"{contestant.cost / ours.forward:.2f} F"


def _ratio(ours: Contestant, peer: Contestant) -> float | None:
    return peer.cost / ours.cost if ours.cost and peer.cost is not None else None


def _own_demand(row: Row) -> str:
    return "" if row.at_most is None else f"at most {row.at_most:g} F"


def _own_success(row: Row, ours: Contestant) -> bool | None:
    if row.at_most is None or ours.cost is None or ours.forward is None:
        return None
    return ours.cost <= row.at_most * ours.forward


def _demand(peer: Peer) -> str:
    if peer.times is None:
        return ""
    return f"at least {peer.times:g}" if peer.times >= 1 else f"ours at most {1 / peer.times:g} of it"


def _verdict(contestant: Contestant, success: bool | None) -> str:
    if contestant.failure:
        return "not measured"
    return "" if success is None else "yes" if success else "**no**"
