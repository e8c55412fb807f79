"""The classic door to models behind an API, against servers that run here: numbers, concurrency, keys and wrong use."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import attribution as at
from attribution.api_attribution import DEFAULT_MODEL, OpenAIAttributor
from attribution.errors import ApiError, CapabilityError, InputError
from attribution.experiment_logger import ExperimentLogger
from attribution.models.api.limits import Backoff
from attribution.models.api.threads import in_thread
from attribution.models.local import LocalModel
from attribution.perturbation import FixedPerturbationStrategy, NthNearestPerturbationStrategy
from tests.faulty_server import FaultyServer, Reply, Seen

if TYPE_CHECKING:
    from tests.servers import Server

KEY = "sk-0123456789abcdef"
PROMPT = "Sam has 3 apples. How many apples"
TOKENS = 4


@pytest.fixture(scope="module")
def server(demo: LocalModel) -> Iterator[Server]:
    """As vLLM's, with the embedded model; it answers those alone who have the key."""
    from tests import servers

    with servers.stand_in(demo, api_key=KEY) as started:
        yield started


def door(server: Server, **options: Any) -> OpenAIAttributor:
    given = {"base_url": f"{server.url}/v1", "tokenizer": "demo", "cache": False, "repeats": 1, "progress": False}
    return OpenAIAttributor(server.model, KEY, **(given | options))


def nothing_runs() -> None:
    assert not [thread.name for thread in threading.enumerate() if thread.name == "attribution api"]


# Numbers


@pytest.mark.parametrize(
    ("method", "strategy", "ablation"),
    [
        ("iterative", FixedPerturbationStrategy(), "delete"),
        ("hierarchical", FixedPerturbationStrategy("..."), at.Replace("...")),
    ],
)
def test_numbers_are_those_of_explain_and_of_the_local_engine(
    server: Server, demo: LocalModel, tmp_path: Path, method: str, strategy: FixedPerturbationStrategy, ablation: Any
) -> None:
    attributor = door(server, cache=tmp_path / "replies.sqlite3")
    perturb = attributor.iterative_perturbation if method == "iterative" else attributor.hierarchical_perturbation
    found = asyncio.run(perturb(PROMPT, strategy, max_new_tokens=TOKENS))
    assert list(found) == ["prob_diff", "similarity"]
    name = "leave_one_out" if method == "iterative" else "hierarchical"
    targets = {"prob_diff": "prob", "similarity": at.Semantic("overlap", TOKENS)}
    for strategy_name, target in targets.items():
        own = found[strategy_name]
        same = at.explain(
            attributor.model,
            PROMPT,
            method=name,
            target=at.Semantic("overlap") if strategy_name == "similarity" else "prob",
            ablation=ablation,
            max_new_tokens=TOKENS,
        )
        local = at.explain(demo, PROMPT, method=name, target=target, ablation=ablation, max_new_tokens=TOKENS)
        assert (own.method, own.target, own.ablation, own.units) == (
            same.method,
            same.target,
            same.ablation,
            same.units,
        )
        assert np.array_equal(own.scores, same.scores)
        assert own.scores.shape == local.scores.shape
        assert np.abs(own.scores - local.scores).max() < 1e-3
        assert np.abs(own.scores).max() > 0.05
    assert found["prob_diff"].scores.shape == (len(found["prob_diff"].outputs), len(found["prob_diff"].units))
    nothing_runs()


def test_tokens_are_units_where_the_tokenizer_is_known(server: Server, demo: LocalModel) -> None:
    found = asyncio.run(
        door(server).iterative_perturbation(
            "Sam has 3 apples.", attribution_strategies=["prob_diff"], unit="token", output=" Sam has 3 apples"
        )
    )
    local = at.explain(
        demo, "Sam has 3 apples.", output=" Sam has 3 apples", units="token", target="prob", method="leave_one_out"
    )
    assert list(found) == ["prob_diff"]
    assert np.abs(found["prob_diff"].scores - local.scores).max() < 1e-3
    assert found["prob_diff"].output == " Sam has 3 apples"


def test_neighbours_stand_for_units(server: Server, demo: LocalModel) -> None:
    strategy = NthNearestPerturbationStrategy(n=2, model=demo)
    found = asyncio.run(door(server).iterative_perturbation(PROMPT, strategy, ["prob_diff"], max_new_tokens=TOKENS))[
        "prob_diff"
    ]
    texts = [unit.text for unit in found.units if not unit.special]
    others = strategy.neighbours(texts)
    assert found.ablation == str(at.Replace(others))
    local = at.explain(
        demo, PROMPT, target="prob", method="leave_one_out", ablation=at.Replace(others), max_new_tokens=TOKENS
    )
    assert np.abs(found.scores - local.scores).max() < 1e-3


@pytest.mark.slow
def test_numbers_of_llama_server(llama_server: Server, demo: LocalModel) -> None:
    attributor = OpenAIAttributor(
        llama_server.model, base_url=f"{llama_server.url}/v1", tokenizer="demo", cache=False, progress=False
    )
    log = ExperimentLogger()
    found = asyncio.run(attributor.iterative_perturbation(PROMPT, max_new_tokens=TOKENS, logger=log))
    for name, target in (("prob_diff", "prob"), ("similarity", at.Semantic("overlap", TOKENS))):
        local = at.explain(demo, PROMPT, method="leave_one_out", target=target, max_new_tokens=TOKENS)
        assert np.abs(found[name].scores - local.scores).max() < 1e-3
    assert [experiment.endpoint for experiment in log.experiments] == [llama_server.url.partition("//")[2]] * 2


def test_a_text_of_which_nothing_is_left_is_asked_about_too(server: Server) -> None:
    """Without a tokenizer texts are sent, and such servers refuse an empty one."""
    attributor = door(server, tokenizer=None)
    ask = attributor.iterative_perturbation
    found = asyncio.run(ask("Sam", attribution_strategies=["similarity"], output=" apples", max_new_tokens=2))
    prompts = [call.body.get("prompt") for call in server.stand_in.calls[-30:] if call.path == "/v1/completions"]
    assert " " in prompts
    assert found["similarity"].scores.shape == (1, 1)


# Several at once


def test_experiments_at_once_are_as_one_after_the_other(server: Server) -> None:
    prompts = ["Sam has 3", "Tom has 5"]

    async def one_by_one(attributor: OpenAIAttributor) -> list[dict[str, at.Attribution]]:
        return [
            await attributor.iterative_perturbation(prompt, output=" Sam has", max_new_tokens=2) for prompt in prompts
        ]

    turns = 0

    async def at_once(attributor: OpenAIAttributor, log: ExperimentLogger) -> list[dict[str, at.Attribution]]:
        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        counting = asyncio.create_task(count())
        try:
            return await asyncio.gather(
                *(
                    attributor.iterative_perturbation(each, output=" Sam has", max_new_tokens=2, logger=log)
                    for each in prompts
                )
            )
        finally:
            counting.cancel()

    expected = asyncio.run(one_by_one(door(server)))
    attributor, log = door(server, max_concurrent_requests=3), ExperimentLogger()
    found = asyncio.run(at_once(attributor, log))
    for own, same in zip(found, expected, strict=True):
        for name in ("prob_diff", "similarity"):
            assert own[name].outputs == same[name].outputs
            assert np.array_equal(own[name].scores, same[name].scores)
    assert attributor.model.client.spending.peak == 3
    assert turns > 20  # the caller's loop was free meanwhile
    # Each experiment counts its own calls, though all share one client.
    assert sorted(e.attribution for e in log.experiments) == ["prob_diff"] * 2 + ["similarity"] * 2
    assert sum(experiment.calls for experiment in log.experiments) == attributor.model.client.spending.calls
    spent = attributor.model.client.spending
    assert sum(experiment.tokens for experiment in log.experiments) == spent.input_tokens + spent.output_tokens
    assert {e.prompt for e in log.experiments} == set(prompts)
    nothing_runs()


# An endpoint that tells texts alone

SENTENCES = [f"Box {number} holds {thing}." for number, thing in enumerate(["nuts", "pens", "cups", "hats"] * 6)]
LONG = " ".join([*SENTENCES[:13], "Sam owns a turtle.", *SENTENCES[13:], "What does Sam own?"])


def writes(text: Any, after: float = 0.0) -> Reply:
    content = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2},
    }
    return Reply(body=json.dumps(content), delay=after)


def texts_alone(seen: Seen, _times: int) -> Reply:
    """It answers messages, by whether they speak of a turtle, and tells no log-probabilities."""
    if not seen.path.endswith("/chat/completions"):
        return Reply(404, "{}")
    said = seen.body["messages"][-1]["content"]
    return writes("He owns a turtle." if "turtle" in said else "Nobody knows that.")


def asking(server: FaultyServer, **options: Any) -> OpenAIAttributor:
    limits = at.Limits(retries=0, backoff=Backoff(0.001, 0.01, 0.001))
    return OpenAIAttributor("m", KEY, base_url=server.url, cache=False, progress=False, limits=limits, **options)


def test_texts_alone_give_similarities() -> None:
    with FaultyServer(texts_alone) as server:
        attributor = asking(server, max_concurrent_requests=8)
        with pytest.raises(
            CapabilityError, match=r"log-probabilities.*texts alone.*attribution_strategies=\['similarity'\]"
        ):
            asyncio.run(attributor.iterative_perturbation("Sam owns a turtle."))
        asked = len(server.seen)
        assert asked < 15  # to find out; nothing was paid for beyond that
        log = ExperimentLogger()
        found = asyncio.run(
            attributor.iterative_perturbation("Sam owns a turtle.", attribution_strategies=["similarity"], logger=log)
        )["similarity"]
        assert {unit.text: score for unit, score in zip(found.units, found.scores[0].tolist(), strict=True)} == {
            "Sam": 0, "owns": 0, "a": 0, "turtle": 1, ".": 0,
        }  # fmt: skip
        assert (log.experiments[0].road, log.experiments[0].calls) == ("texts", len(server.seen) - asked)
        # Whatever is typed for it works.
        assert server.peak <= 8


def test_coarse_to_fine_asks_less_and_finds_the_cause() -> None:
    with FaultyServer(texts_alone) as server:
        attributor, log = asking(server, max_concurrent_requests=8), ExperimentLogger()

        async def both() -> list[at.Attribution]:
            one = await attributor.iterative_perturbation(LONG, attribution_strategies=["similarity"], logger=log)
            other = await attributor.hierarchical_perturbation(LONG, attribution_strategies=["similarity"], logger=log)
            return [one["similarity"], other["similarity"]]

        for found in asyncio.run(both()):
            assert [found.units[i].text for i in np.flatnonzero(found.scores[0] > 0.5)] == ["turtle"]
        fine, coarse = log.experiments
        assert len(found.units) > 100
        assert coarse.prompts < fine.prompts / 2
        assert coarse.calls < fine.calls / 2


def test_an_experiment_that_is_cancelled_leaves_nothing_running() -> None:
    def slow(seen: Seen, times: int) -> Reply:
        said = json.dumps(seen.body)
        return Reply(fault="hang") if "Tom" in said else texts_alone(seen, times)

    with FaultyServer(slow) as server:
        attributor, log = asking(server, max_concurrent_requests=8), ExperimentLogger()

        async def experiments() -> tuple[dict[str, at.Attribution], int]:
            ask = attributor.iterative_perturbation
            hung = asyncio.create_task(ask("Tom owns a turtle.", attribution_strategies=["similarity"], logger=log))
            while not any("Tom" in json.dumps(seen.body) for seen in server.seen):
                await asyncio.sleep(0.01)
            other = asyncio.create_task(ask("Sam owns a turtle.", attribution_strategies=["similarity"], logger=log))
            began = time.monotonic()
            hung.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hung
            assert time.monotonic() - began < 10  # and not the minute that a call may take
            about = sum("Tom" in json.dumps(seen.body) for seen in server.seen)
            return await other, about

        found, about = asyncio.run(experiments())
        assert found["similarity"].scores.max() == 1
        assert sum("Tom" in json.dumps(seen.body) for seen in server.seen) == about
        assert [experiment.prompt for experiment in log.experiments] == ["Sam owns a turtle."]
        nothing_runs()


def test_work_that_is_called_off_before_it_has_a_thread_never_begins() -> None:
    begun: list[str] = []

    def work(name: str, wait: threading.Event) -> str:
        begun.append(name)
        wait.wait(30)
        return name

    async def calls() -> str:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        over = threading.Event()
        first = asyncio.create_task(in_thread(lambda: work("first", over)))
        while not begun:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(in_thread(lambda: work("second", over)))
        await asyncio.sleep(0.05)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        over.set()
        return await first

    assert asyncio.run(calls()) == "first"
    assert begun == ["first"]


def test_an_error_is_raised_and_what_came_before_is_logged() -> None:
    def failing(seen: Seen, times: int) -> Reply:
        return (
            Reply(500, "oh no")
            if "owns" not in json.dumps(seen.body) and "Sam" in json.dumps(seen.body)
            else texts_alone(seen, times)
        )

    with FaultyServer(failing) as server:
        log = ExperimentLogger()
        with pytest.raises(ApiError, match="500"):
            asyncio.run(
                asking(server).iterative_perturbation("Sam owns it.", attribution_strategies=["similarity"], logger=log)
            )
        assert len(log) == 0
        nothing_runs()


# Keys


def test_the_key_is_nowhere(server: Server, tmp_path: Path) -> None:
    attributor, log = door(server, cache=tmp_path / "replies.sqlite3"), ExperimentLogger()
    found = asyncio.run(attributor.iterative_perturbation("Sam has 3 apples.", output=" Sam", logger=log))
    for result in found.values():
        result.save(tmp_path / f"{result.target}.safetensors".replace(" ", ""))
        assert KEY not in json.dumps(result.to_dict())
    found["similarity"].to_html(tmp_path / "result.html")
    log.save(tmp_path / "log.json")
    log.to_csv(tmp_path / "log.csv")
    shown = [repr(attributor), str(vars(attributor)), str(log), log._repr_html_(), repr(log.experiments)]
    assert not [text for text in shown if KEY in text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_key_that_the_endpoint_repeats_is_not_logged(tmp_path: Path) -> None:
    def repeating(seen: Seen, _times: int) -> Reply:
        return writes(f"Your key: {KEY}") if seen.path.endswith("/chat/completions") else Reply(404, KEY)

    with FaultyServer(repeating) as server:
        log = ExperimentLogger()
        asyncio.run(
            asking(server).iterative_perturbation("Sam owns it.", attribution_strategies=["similarity"], logger=log)
        )
        log.save(tmp_path / "log.json")
        assert log.experiments[0].output == "Your key: ***"
        assert KEY not in (tmp_path / "log.json").read_text()


def test_the_key_of_openai_is_sent_to_no_other_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FaultyServer(texts_alone) as server:
        attributor = OpenAIAttributor("m", base_url=server.url, cache=False, progress=False)
        asyncio.run(attributor.iterative_perturbation("Sam owns it.", attribution_strategies=["similarity"]))
        assert server.seen
        assert not [seen for seen in server.seen if KEY in json.dumps(seen.headers)]


def test_openai_is_asked_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for options in ({}, {"openai_api_key": "sk-another"}, {"base_url": "https://api.openai.com/v1/"}):
        attributor = OpenAIAttributor(cache=False, **options)
        assert repr(attributor) == f"OpenAIAttributor(RemoteModel('https://api.openai.com/v1', {DEFAULT_MODEL!r}))"
        assert attributor.model.client.limits.max_concurrency == 5
    limits = at.Limits(max_concurrency=9, max_calls=40)
    allowed = OpenAIAttributor("m", max_concurrent_requests=2, limits=limits, cache=False).model.client.limits
    assert (allowed.max_concurrency, allowed.max_calls) == (2, 40)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="export OPENAI_API_KEY="):
        OpenAIAttributor("m", cache=False)


# Wrong use

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "one name": (
        {"attribution_strategies": "prob_diff"},
        r"list of names out of 'prob_diff', 'similarity', got 'prob_diff'",
    ),
    "another name": ({"attribution_strategies": ["cosine"]}, r"'prob_diff', 'similarity', got \['cosine'\]"),
    "no name": ({"attribution_strategies": []}, r"list of names.*got \[\]"),
    "a text for a strategy": ({"perturbation_strategy": "fixed"}, "FixedPerturbationStrategy.*NthNearest"),
    "a unit that is none": ({"unit": "sentence"}, r"unit='word' or unit='token', got 'sentence'.*attribution\.explain"),
    "tokens of nobody": ({"unit": "token"}, r"OpenAIAttributor\(\.\.\., tokenizer=\.\.\.\)"),
    "a path for a logger": ({"logger": "log.json"}, r"logger=ExperimentLogger\(\)"),
    "no text": ({"input_text": " "}, "at least one word"),
    "no length": ({"max_new_tokens": 0}, "max_new_tokens"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("method", ["iterative_perturbation", "hierarchical_perturbation"])
@pytest.mark.usefixtures("untyped")
def test_wrong_use_is_told(name: str, method: str) -> None:
    given, message = WRONG[name]
    attributor = OpenAIAttributor("m", base_url="http://localhost:9/v1", cache=False, progress=False)
    options = {"input_text": "Sam owns it.", "attribution_strategies": ["similarity"], **given}
    with pytest.raises(InputError, match=message):
        asyncio.run(getattr(attributor, method)(**options))


@pytest.mark.usefixtures("untyped")
def test_wrong_constructors_are_told() -> None:
    with pytest.raises(InputError, match="Expected openai_model, the model's name at http"):
        OpenAIAttributor(base_url="http://localhost:9/v1")
    with pytest.raises(InputError, match="max_concurrent_requests"):
        OpenAIAttributor("m", max_concurrent_requests=0, base_url="http://localhost:9/v1")
    with pytest.raises(InputError, match="base_url as a URL"):
        OpenAIAttributor("m", base_url="localhost")
    for n in (0, 1.5, "first", True, None):
        with pytest.raises(InputError, match="n=1 for the nearest"):
            NthNearestPerturbationStrategy(n)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="replacement_token as a text"):
        FixedPerturbationStrategy(None)  # pyright: ignore[reportArgumentType]


# Neighbours


def ranked(model: LocalModel, vector: torch.Tensor, own: str) -> list[str]:
    """Texts of all printable tokens, the nearest first, each text once whatever its case: plain loops."""
    weight = model.model.get_input_embeddings().weight.detach().double()
    found: list[tuple[float, int, str]] = []
    for token in range(len(model.tokenizer)):
        text = model.tokenizer.decode([token]).strip()
        if not text or not text.isprintable() or "\ufffd" in text or token in model.tokenizer.all_special_ids:
            continue
        found.append((-float(torch.cosine_similarity(weight[token], vector.double(), dim=0)), token, text))
    texts: dict[str, str] = {}
    for _, _, text in sorted(found):
        if text.casefold() != own.casefold():
            texts.setdefault(text.casefold(), text)
    return list(texts.values())


def spelled(model: LocalModel, word: str) -> list[int]:
    """Names are tokens without a space before them, most words with one."""
    return min((model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f" {word}", word)), key=len)


@pytest.mark.parametrize("word", ["apples", "Sam", "3", "turtle"])
def test_neighbours_are_those_of_a_plain_search(demo: LocalModel, word: str) -> None:
    ids = spelled(demo, word)
    assert (len(ids) > 1) == (word == "turtle")
    vector = demo.model.get_input_embeddings().weight.detach()[ids].mean(0)
    expected = ranked(demo, vector, word)
    for n in (1, 2, 7):
        assert NthNearestPerturbationStrategy(n, demo).neighbours([word]) == [expected[n - 1]]
    (farthest,) = NthNearestPerturbationStrategy(model=demo).neighbours([word])
    assert farthest.casefold() not in map(str.casefold, [word, *expected[:400]])


def planted(demo: LocalModel, **vectors: Sequence[float]) -> LocalModel:
    """The embedded model with other vectors: all tokens far from these, which are as given."""
    model = copy.deepcopy(demo.model)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight.zero_()
        weight[:, 3] = 1
        for word, vector in vectors.items():
            (token,) = spelled(demo, word)
            weight[token] = 0
            weight[token, : len(vector)] = torch.tensor(vector)
    return LocalModel(model, demo.tokenizer)


def test_a_planted_neighbour_is_found(demo: LocalModel) -> None:
    model = planted(demo, apples=[1, 0, 0], pears=[5, 1, 0], Tom=[1, 1, 0], oranges=[-2, 0, 0], pens=[0, 0, 0])
    units = ["apples", "apples", " Apples"]
    assert NthNearestPerturbationStrategy(1, model).neighbours(units[:2]) == ["pears", "pears"]
    assert NthNearestPerturbationStrategy(2, model).neighbours(units[:1]) == ["Tom"]
    assert NthNearestPerturbationStrategy(-1, model).neighbours(units[:1]) == ["oranges"]
    # A token without a direction, pens, is neither near nor far; nor is there an end to what is left.
    count = len(ranked(model, torch.zeros(model.width), "apples"))
    with pytest.raises(InputError, match=f"at most the {count - 1} tokens.*'apples'"):
        NthNearestPerturbationStrategy(10_000, model).neighbours(["apples"])


def test_a_word_is_never_its_own_neighbour(demo: LocalModel) -> None:
    words = sorted({demo.tokenizer.decode([token]).strip() for token in range(300, 600)} - {""})
    for n in (1, -1):
        for word, other in zip(words, NthNearestPerturbationStrategy(n, demo).neighbours(words), strict=True):
            assert word.casefold() != other.casefold()
            assert other == other.strip() != ""


def test_neighbours_of_every_kind_of_tokenizer(llama: LocalModel, gpt2: LocalModel) -> None:
    for model in (llama, gpt2):
        for units in (["Sam", "has", "\n", "é", "日本", "🙂", "apples?!"],):
            found = NthNearestPerturbationStrategy(1, model).neighbours(units)
            assert found == NthNearestPerturbationStrategy(1, model).neighbours(units)
            assert all(text.isprintable() and text.strip() == text != "" for text in found)


@pytest.mark.usefixtures("untyped")
def test_neighbours_of_a_model_behind_an_api() -> None:
    remote = at.RemoteModel("http://localhost:9/v1", "m", cache=False)
    with pytest.raises(CapabilityError, match="runs here"):
        NthNearestPerturbationStrategy(1, remote).neighbours(["Sam"])  # pyright: ignore[reportArgumentType]
