"""The roads on which an endpoint tells less: bounds that are true, and scores that chance alone does not make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import attribution as at
from attribution.errors import ModelError
from attribution.method import build_method
from attribution.models.dialects.completion import Piece, read_pieces
from attribution.models.dialects.scoring import ending, spread
from attribution.models.local import LocalModel
from attribution.remote import noise
from attribution.remote.asking import bounded, most_left
from attribution.remote.noise import noise_floor
from tests.endpoints import PROMPT, WRITTEN, Endpoint, remote
from tests.faulty_server import Reply, Seen
from tests.games import Game

MOST = 2
"""As many of the likeliest tokens does the endpoint tell, and the one that it wrote."""

HALVES = [b"\xf0", b"\x9f", b"\x98", b"\x80"]
"""The bytes of one character."""

NOTHING = " "
"""What is put where nothing is left: endpoints refuse to go on from nothing."""


def top_alone(seen: Seen, reply: dict[str, Any]) -> dict[str, Any] | Reply | None:
    """Nothing is read back, and of the likeliest tokens few are told, as OpenAI's endpoints do."""
    if seen.body is None:
        reply["data"][0]["owned_by"] = "someone"
        return reply
    if "prompt_logprobs" in seen.body or seen.body.get("echo"):
        return Reply(400, '{"error": {"message": "Unknown field"}}')
    for choice in reply.get("choices", ()):
        choice["token_ids"] = None
        if choice["logprobs"] is not None:
            tops = choice["logprobs"]["top_logprobs"]
            choice["logprobs"]["top_logprobs"] = [dict(list(top.items())[:MOST]) for top in tops]
    return reply


def true_values(model: LocalModel, result: at.Attribution) -> np.ndarray:
    """`[evaluation, output]`: the log-probabilities of the output after each ablated prompt, in nats."""
    output = model.codec.ids_of(result.output)
    rows: list[list[float]] = []
    for keep in result.evaluations.keep:
        text = "".join(
            result.prompt[unit.start : unit.end] for unit, is_kept in zip(result.units, keep, strict=True) if is_kept
        )
        ids = (*model.codec.encode(text or NOTHING).ids, *output)
        with torch.no_grad(), model.borrowed():
            logits = model.logits(torch.tensor([ids]))[0].log_softmax(-1)
        first = len(ids) - len(output)
        rows.append([float(logits[first + place - 1, token]) for place, token in enumerate(output)])
    return np.array(rows)


@pytest.mark.parametrize("method", ["leave_one_out", "hierarchical", "shapley_sampling"])
def test_bounds_hold_and_what_is_told_is_exact(method: str, demo: LocalModel) -> None:
    chosen = build_method(method)
    if method == "shapley_sampling":
        chosen = type(chosen)(permutations=2)
    with Endpoint(demo, top_alone) as server:
        result = at.explain(remote(server), PROMPT, units="word", method=chosen, seed=1)
    assert result.notes["evidence"]["road"] == "likeliest"
    assert result.output == WRITTEN
    values, true = result.evaluations.values, true_values(demo, result)
    censored = {(each["evaluation"], each["output"]): each for each in result.notes["censored"]}
    assert 0 < len(censored) < true.size
    texts = [output.text for output in result.outputs]
    for (row, place), number in np.ndenumerate(true):
        bound = censored.get((row, place))
        if bound is None:
            assert values[row, place] == pytest.approx(number, abs=1e-3)
        else:
            low = -np.inf if bound["low"] is None else bound["low"]
            assert low - 1e-3 <= number <= bound["high"] + 1e-3
            assert low <= values[row, place] <= bound["high"] + 1e-6
    # Which of them are censored follows from what the model writes after each ablated prompt.
    for row, keep in enumerate(result.evaluations.keep):
        written, tops = greedy(demo, result, keep, len(texts))
        told = True
        for place, text in enumerate(texts):
            is_known = told and (text == written[place] or text in tops[place])
            assert ((row, place) in censored) != is_known
            told &= text == written[place]


def greedy(
    model: LocalModel, result: at.Attribution, keep: np.ndarray, count: int
) -> tuple[list[str], list[tuple[str, ...]]]:
    """The tokens that are written after an ablated prompt, and the likeliest in the place of each."""
    text = "".join(
        result.prompt[unit.start : unit.end] for unit, is_kept in zip(result.units, keep, strict=True) if is_kept
    )
    ids = list(model.codec.encode(text or NOTHING).ids)
    written: list[str] = []
    tops: list[tuple[str, ...]] = []
    for _ in range(count):
        with torch.no_grad(), model.borrowed():
            logits = model.logits(torch.tensor([ids]))[0, -1]
        best = logits.topk(MOST).indices.tolist()
        tops.append(tuple(model.codec.decode([token]) for token in best))
        written.append(tops[-1][0])
        ids.append(best[0])
    return written, tops


def test_what_a_given_output_and_a_contrast_get_there(demo: LocalModel) -> None:
    with Endpoint(demo, top_alone) as server:
        model = remote(server, repeats=1)
        with pytest.raises(at.AttributionError, match="A Contrast asks how likely another output is"):
            at.explain(model, PROMPT, method="leave_one_out", target=at.Contrast("5", instead_of="3"))
        given = at.explain(model, PROMPT, method="leave_one_out", units="sentence", output="The answer is 5.")
        evidence = given.notes["evidence"]
        assert evidence["road"] == "texts"
        assert evidence["reasons"] == ["it does not tell how likely an output is that it did not write"]


def test_probabilities_are_bounded_too(demo: LocalModel) -> None:
    with Endpoint(demo, top_alone) as server:
        result = at.explain(remote(server), PROMPT, units="sentence", method="leave_one_out", target="prob")
    true = np.exp(true_values(demo, result))
    for each in result.notes["censored"]:
        assert 0 <= each["low"] <= true[each["evaluation"], each["output"]] + 1e-4
        assert true[each["evaluation"], each["output"]] <= each["high"] + 1e-4


def test_bounds_by_hand() -> None:
    output = [Piece("a", -0.1), Piece("b", -0.2), Piece("c", -0.3)]
    tops = ((" x", -0.5), ("b", -1.0))
    same = bounded(output, [Piece("a", -0.4), Piece(" x", -0.5, tops), Piece("y", -0.1)])
    assert same[:, 0].tolist() == [-0.4] * 3
    assert same[:, 1].tolist() == [-1.0] * 3  # not written, and told
    assert same[:, 2].tolist() == [-0.3, -np.inf, 0.0]  # nothing is known after another token
    other = bounded(output, [Piece("z", -0.5, (("z", -0.5), ("y", -1.5)))])
    most = np.log(1 - np.exp(-0.5) - np.exp(-1.5))
    assert other[2, 0] == pytest.approx(most, abs=1e-4)
    assert other[0, 0] == pytest.approx(most, abs=1e-4)
    assert most_left([-0.5, -0.6]) == pytest.approx(np.log(1e-6))  # nothing is left for others
    assert most_left([-3.0, -4.0]) == -4.0  # no more than the least likely that is told


# Chance


Draw = Callable[[int], np.ndarray]
"""So many similarities of answers to one and the same prompt."""


def chance_game(draw: Draw, repeats: int, causes: Mapping[int, float] | None = None, n_units: int = 8) -> Game:
    """Every mask is answered by the mean of so many draws, whatever is in it; only `causes` take something away."""

    def value(keep: Tensor) -> Tensor:
        gone = [sum(worth for unit, worth in (causes or {}).items() if not mask[unit]) for mask in keep]
        return torch.tensor([[float(draw(repeats).mean()) - each] for each in gone])

    return Game(n_units, 1, value)


def noises(rng: np.random.Generator) -> dict[str, Draw]:
    return {
        "half": lambda count: (rng.random(count) < 0.5).astype(float),
        "nine in ten": lambda count: (rng.random(count) < 0.9).astype(float),
        "uniform": lambda count: rng.random(count),
    }


ANSWERS, REPEATS = 10, 5


def share_without_causes(method: str, draw: Draw, runs: int, options: Mapping[str, int]) -> float:
    """The share of runs in which nothing is called a cause where nothing is, among those that noise was heard in."""
    chosen = type(build_method(method))(**options)
    right = heard = 0
    for seed in range(runs):
        similarities = draw(ANSWERS).tolist()
        if len(set(similarities)) == 1:  # which is taken for an endpoint that always says the same
            continue
        heard += 1
        game = chance_game(draw, REPEATS)
        floor = noise_floor(game, chosen, [similarities], REPEATS, seed)
        scores = chosen.attribute(game, np.random.default_rng(seed))
        right += bool(scores.abs().max() <= floor)
    assert heard > runs / 2
    return right / heard


METHODS: dict[str, dict[str, int]] = {"leave_one_out": {}, "hierarchical": {}, "lime": {"samples": 32}}


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("leave_one_out", "half"),
        *(
            pytest.param(method, kind, marks=pytest.mark.slow)
            for method in METHODS
            for kind in ("half", "nine in ten", "uniform")
        ),
    ],
)
def test_chance_is_not_called_a_cause(method: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = 40
    monkeypatch.setattr(noise, "TIMES", 30)  # a floor from fewer is rougher, and neither higher nor lower
    draw = noises(np.random.default_rng(7))[kind]
    # Of 40 runs 34 or fewer are right in one of 70 times where 95% are.
    assert share_without_causes(method, draw, runs, METHODS[method]) > 34 / 40


@pytest.mark.parametrize("method", METHODS)
def test_a_cause_larger_than_chance_is_found(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "TIMES", 20)
    rng = np.random.default_rng(3)

    def draw(count: int) -> np.ndarray:
        return 0.9 + 0.1 * rng.random(count)

    chosen = type(build_method(method))(**METHODS[method])
    for seed in range(3):
        game = chance_game(draw, REPEATS, {2: 0.6})
        floor = noise_floor(game, chosen, [draw(ANSWERS).tolist()], REPEATS, seed)
        scores = chosen.attribute(game, np.random.default_rng(seed))[0]
        assert int(scores.argmax()) == 2
        assert float(scores[2]) > floor > 0


def test_without_noise_nothing_is_held_back() -> None:
    game = chance_game(lambda count: np.ones(count), 1)
    assert noise_floor(game, build_method("leave_one_out"), [[1.0] * ANSWERS], 1, 0) == 0.0


def texts_alone(seen: Seen, reply: dict[str, Any]) -> dict[str, Any] | None:
    if seen.body is None:
        return None
    reply["choices"][0]["logprobs"] = reply["choices"][0]["prompt_logprobs"] = None
    return reply


def test_an_endpoint_that_says_the_same_is_asked_once(demo: LocalModel) -> None:
    with Endpoint(demo, texts_alone) as server:
        model = remote(server, repeats=3)
        result = at.explain(model, PROMPT, units="sentence", method="leave_one_out")
        assert result.notes["evidence"]["road"] == "texts"
        assert result.notes["evidence"]["repeats"] == 1
        assert result.notes["noise"] == {
            "similarities": [1.0] * 6,
            "different": 1,
            "others": [],
            "floor": 0.0,
            "below": 0,
        }
        assert result.scores[0, 0] > 0
        asked = [body["prompt"] for body in server.asked("/v1/completions") if body["prompt"] != PROMPT]
        ablated = [prompt for prompt in asked if "alphabet" not in prompt]
        # Twice where the answer was another one, to see that it is no chance.
        assert sorted(Counter(ablated).values()) == [2, 2]


def test_answers_that_were_alike_by_chance_are_doubted(demo: LocalModel) -> None:
    """The whole prompt is always answered alike, a prompt without a sentence otherwise the first time alone."""
    times = Counter[str]()

    def wavering(seen: Seen, reply: dict[str, Any]) -> dict[str, Any] | None:
        if texts_alone(seen, reply) is not None:
            asked = seen.body["prompt"]
            times[asked] += 1
            is_other = PROMPT not in asked and "alphabet" not in asked and times[asked] == 1
            reply["choices"][0]["text"] = "something else" if is_other else "the usual answer"
        return reply

    with Endpoint(demo, wavering) as server:
        result = at.explain(remote(server, repeats=3), PROMPT, units="sentence", method="leave_one_out")
        assert result.notes["evidence"]["repeats"] == 3
        told = result.notes["noise"]
        assert told["similarities"] == [1.0] * 6
        assert told["others"] == [[0.0, 1.0]] * len(told["others"]) != []
        assert told["floor"] > 0
        assert not result.scores.any()


def test_an_endpoint_that_says_anything_names_no_cause(demo: LocalModel) -> None:
    """Its words are drawn at random, whatever it is asked."""
    rng = np.random.default_rng(1)
    words = ["red", "blue", "green", "grey", "white", "black", "pink", "brown"]

    def chatter(seen: Seen, reply: dict[str, Any]) -> dict[str, Any] | None:
        if texts_alone(seen, reply) is not None:
            reply["choices"][0]["text"] = " ".join(rng.choice(words, 4))
        return reply

    with Endpoint(demo, chatter) as server:
        result = at.explain(remote(server, repeats=3), PROMPT, units="sentence", method="leave_one_out")
        assert result.notes["evidence"]["repeats"] == 3
        told = result.notes["noise"]
        assert len(told["similarities"]) == 6
        assert told["floor"] > 0
        assert told["below"] == 2
        assert not result.scores.any()


def test_parts_of_a_character_are_told_apart() -> None:
    """Two characters begin with the same token: it was as likely as it was, whatever comes after it."""
    told = {"content": [{"token": "", "bytes": list(part), "logprob": -0.1, "top_logprobs": []} for part in HALVES]}
    other = {"content": [{**entry} for entry in told["content"]]}
    other["content"][-1]["bytes"] = [0x81]
    for entry in (*told["content"], *other["content"]):
        entry["top_logprobs"] = [{"bytes": entry["bytes"], "logprob": -0.1, "token": ""}]
    output, written = read_pieces(told), read_pieces(other)
    assert [piece.text for piece in output] == ["😀", "", "", ""]
    numbers, low, high = bounded(output, written)
    assert numbers[:3].tolist() == low[:3].tolist() == high[:3].tolist() == [-0.1] * 3
    assert low[3] == -np.inf
    assert high[3] <= -0.1


def test_a_token_across_the_border_counts_as_the_outputs() -> None:
    read = [Piece("Sam", None), Piece(" is", -1.0), Piece(" 3", -2.0), Piece(" or", -3.0)]
    own = ending(read, "3 or")
    assert [(piece.text, piece.logprob) for piece in own] == [("3", -2.0), (" or", -3.0)]
    assert spread(read, [Piece("3", None), Piece(" or", None)]) == [-2.0, -3.0]
    with pytest.raises(ModelError, match="Expected a text that ends with"):
        ending(read, "4 or")
