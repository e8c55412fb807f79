"""What the model says after ablated prompts, against transformers' own generation of one prompt at a time."""

from __future__ import annotations

import copy
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import MambaConfig, MambaForCausalLM

from attribution.absence import Replace
from attribution.engine.ablation import Allowed
from attribution.engine.rewriting import Rewriting
from attribution.errors import BudgetError, CapabilityError, ContextWindowError, InputError
from attribution.estimate import estimate
from attribution.local_problem import LocalProblem
from attribution.method import build_method, list_methods
from attribution.models.local import LocalModel
from attribution.problem import Budget
from attribution.prompts.prompt import Prompt, PromptUnit
from attribution.target import TARGETS, Likeness, Semantic, overlap, read_output, sameness
from tests import reference
from tests.state import differences, snapshot
from tests.tiny import WINDOW, local, tiny_model, tiny_tokenizer

TEXT = "Sam has 3 apples and Tom has 5."
QUESTION = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
MEASURES: tuple[Likeness, ...] = ("overlap", "exact", "embedding")

each_family = pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gemma3", "mistral"])


# Likeness of texts


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("The answer is 3.", "the ANSWER is\n3", 1),
        ("The answer is 3.", "The answer is 5.", 3 / 4),
        ("The answer is 3.", "It has 3 apples.", 1 / 4),
        ("no no yes", "no yes yes yes", 4 / 7),  # one "no" and one "yes" are in both
        ("Straße", "STRASSE", 1),
        ("It costs 3.5", "It costs 3", 4 / 6),  # a number is one word
        ("三个苹果", "五个苹果", 2 / 3),  # written without spaces
        ("yes", "no", 0),
        ("!", "!", 1),
        ("!", "?", 0),
        ("", "", 1),
        ("", " \n", 1),
        ("", "yes", 0),
    ],
)
def test_words_in_common(one: str, other: str, expected: float) -> None:
    assert overlap(one, other) == overlap(other, one) == pytest.approx(expected)


def test_the_same_text() -> None:
    assert sameness("\n\nThe answer is 3. ", "The answer is 3.") == 1
    assert sameness("The answer is 3.", "the answer is 3.") == 0
    assert sameness("", " ") == 1


@pytest.mark.usefixtures("untyped")
def test_names() -> None:
    assert str(Semantic()) == "semantic overlap"
    assert str(Semantic("exact")) == "semantic exact"
    assert str(Semantic(by="embedding", max_new_tokens=np.int64(40))) == "semantic embedding of 40 tokens"


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("given", [{"by": "meaning"}, {"by": None}, {"by": ["exact"]}])
def test_no_such_similarity(given: dict) -> None:
    with pytest.raises(InputError, match="Expected a similarity out of 'overlap', 'exact', 'embedding', got"):
        Semantic(**given)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("count", [0, -1, True, 2.0, "3"])
def test_no_such_count(count) -> None:
    with pytest.raises(InputError, match="Expected max_new_tokens as a whole number from 1 on"):
        Semantic(max_new_tokens=count)


# Models, one prompt at a time


def by_word(model: LocalModel, text: str = TEXT) -> Prompt:
    """Every word is a unit, with the space before it."""
    encoding = model.codec.encode(text)
    starts = [
        i
        for i, (start, end) in enumerate(encoding.offsets)
        if i == 0 or encoding.special[i - 1] or (end > start and text[start] == " ")
    ]
    units = [
        PromptUnit((encoding.offsets[i][0], encoding.offsets[j - 1][1]), (i, j), encoding.special[i])
        for i, j in pairwise([*starts, len(encoding.ids)])
    ]
    return Prompt(text, encoding, tuple(units))


def masks(n_units: int) -> torch.Tensor:
    """Everything, nothing, each one alone gone, and some at random, one of them twice."""
    drawn = torch.rand(6, n_units, generator=torch.Generator().manual_seed(1)) < 0.5
    ends = torch.tensor([[True], [False]]).expand(2, n_units)
    return torch.cat([ends, ~torch.eye(n_units, dtype=torch.bool), drawn, drawn[:1]])


def written(model: LocalModel, prompt: Prompt, keep: torch.Tensor, absent: str = "") -> list[list[int]]:
    """The prompts as texts without the absent words, or with another word in their place, tokenized."""
    found: list[list[int]] = []
    for mask in keep.tolist():
        words = [prompt.unit_text(unit) for unit in prompt.units]
        gone = [(" " * word.startswith(" ") + absent) * bool(absent and word) for word in words]
        text = "".join(word if kept else other for word, other, kept in zip(words, gone, mask, strict=True))
        found.append(list(model.codec.encode(text).ids) or [1])  # the end of the text before
    return found


def generated(model: LocalModel, ids: list[int], count: int) -> tuple[int, ...]:
    """What transformers says, one prompt at a time."""
    there = torch.ones(1, len(ids), dtype=torch.long)
    with torch.no_grad():
        whole = model.model.generate(
            torch.tensor([ids]), attention_mask=there, do_sample=False, max_new_tokens=count, pad_token_id=0
        )
    return tuple(whole[0, len(ids) :].tolist())


def ending(family: str) -> LocalModel:
    """A model some of whose texts end early: many ids end one. Its head is its own, so that it does not only repeat."""
    model = copy.deepcopy(tiny_model(family))
    generator = torch.Generator().manual_seed(2)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape, generator=generator))
    model.generation_config.eos_token_id = [1, *range(5, 320, 10)]
    return LocalModel(model, tiny_tokenizer(bos=family != "gpt2"))


def problem(model: LocalModel, output: tuple[int, ...], by: Likeness = "overlap", **options) -> LocalProblem:
    semantic = Semantic(by, options.pop("max_new_tokens", None))
    prompt = options.pop("prompt", None) or by_word(model)
    return LocalProblem(model, prompt, read_output(output, TARGETS["logprob"]), semantic=semantic, **options)


@each_family
@pytest.mark.parametrize("tokens_at_once", [None, 1, 40])
def test_what_is_written_is_what_transformers_writes(family: str, tokens_at_once: int | None) -> None:
    model = ending(family)
    prompt = by_word(model)
    prompts = written(model, prompt, masks(len(prompt.units)))
    truth = [generated(model, ids, 7) for ids in prompts]
    engine = Rewriting(model, truth[0], Semantic(max_new_tokens=7), tokens_at_once)
    found, spent = engine.written(list(map(np.array, prompts)))
    assert found == truth
    assert len(set(map(len, truth))) > 2  # some end before others do
    assert len(set(truth)) > 9
    distinct = set(map(tuple, prompts))
    assert spent.forwards == len(distinct) < len(prompts)
    assert sum(map(len, distinct)) < spent.tokens <= sum(len(ids) + 6 for ids in distinct)
    if tokens_at_once == 1:
        assert spent.tokens == sum(len(ids) + len(truth[prompts.index(list(ids))]) - 1 for ids in distinct)


@each_family
@pytest.mark.parametrize("absent", ["", "Ann"])
def test_values_are_similarities(family: str, absent: str) -> None:
    model = ending(family)
    prompt = by_word(model)
    keep = masks(len(prompt.units))
    prompts = written(model, prompt, keep, absent)
    output = generated(model, prompts[0], 8)
    silent = {*model.model.generation_config.eos_token_id, 0, 1, 2}
    asked = {by: problem(model, output, by, ablation=Replace(absent) if absent else "delete") for by in MEASURES}
    values = {by: each.value(keep) for by, each in asked.items()}
    layer = model.model.get_input_embeddings()
    for row, ids in enumerate(prompts):
        heard = [[i for i in said if i not in silent] for said in (output, generated(model, ids, len(output)))]
        own, other = (model.tokenizer.decode(each).strip() for each in heard)
        assert float(values["exact"][row]) == (own == other)
        assert float(values["overlap"][row]) == pytest.approx(overlap(own, other))
        means = [layer(torch.tensor(each)).detach().mean(0) for each in heard if each]
        near = max(0.0, float(functional.cosine_similarity(*means, dim=0))) if own and other else float(own == other)
        assert float(values["embedding"][row]) == pytest.approx(near, abs=1e-5)
    for by, each in asked.items():
        assert values[by].shape == (len(keep), 1)
        assert values[by][0] == 1
        assert each.cost.forwards == len(set(map(tuple, prompts)))
        assert torch.equal(each.value(keep.flip(0)), values[by].flip(0))
        assert each.cost.forwards == len(set(map(tuple, prompts)))


def test_the_demo_model_says_it_otherwise(demo: LocalModel) -> None:
    """The words are counted as SQuAD does, by hand."""
    prompt = by_word(demo, QUESTION)
    output = demo.generate(prompt.encoding.ids, 20)
    keep = torch.cat([torch.ones(1, len(prompt.units), dtype=torch.bool), ~torch.eye(len(prompt.units)).bool()])
    found = problem(demo, output, prompt=prompt).value(keep)[:, 0].tolist()
    truth = []
    for ids in written(demo, prompt, keep):
        said = [demo.codec.decode(each).removesuffix("<eos>") for each in (output, generated(demo, ids, len(output)))]
        one, other = (Counter(text.strip().lower().rstrip(".").split()) for text in said)
        truth.append(2 * (one & other).total() / (one.total() + other.total()))
    assert found == pytest.approx(truth)
    assert found[0] == 1
    assert 3 / 4 in found  # the number is another one, the sentence is not


def test_texts_to_replace_by_are_averaged(demo: LocalModel) -> None:
    prompt = by_word(demo, QUESTION)
    output = demo.generate(prompt.encoding.ids, 20)
    keep = ~torch.eye(len(prompt.units), dtype=torch.bool)[1:5]
    one, other, both = (
        problem(demo, output, prompt=prompt, ablation=Replace(*each)).value(keep)
        for each in (("Ann",), ("7",), ("Ann", "7"))
    )
    assert torch.allclose((one + other) / 2, both)
    assert not torch.equal(one, other)


def test_a_method_on_the_demo_model(demo: LocalModel) -> None:
    prompt = by_word(demo, QUESTION)
    asked = problem(demo, demo.generate(prompt.encoding.ids, 20), prompt=prompt)
    method = build_method("leave_one_out")
    method.check(asked)
    scores = method.attribute(asked, np.random.default_rng(0))
    assert scores.shape == (1, len(prompt.units))
    words = [prompt.unit_text(unit) for unit in prompt.units]
    assert [word for word, score in zip(words, scores[0].tolist(), strict=True) if score] == [" 3", " have?"]
    assert asked.target == "semantic"
    assert asked.unit == "similarity"
    assert asked.n_targets == asked.n_outputs == 1
    truth = reference.logprobs(demo.model, list(prompt.encoding.ids), list(asked._reading.output))
    assert asked.logprobs().tolist() == pytest.approx(truth, abs=1e-4)


def test_an_output_of_nothing_but_its_end(llama: LocalModel) -> None:
    """Only where the model says nothing at once, too, is that the same."""
    model = ending("llama")
    keep = masks(len(by_word(model).units))
    found = problem(model, (1,)).value(keep)
    said = [generated(model, ids, 1) for ids in written(model, by_word(model), keep)]
    ends = model.model.generation_config.eos_token_id
    assert found[:, 0].tolist() == [float(output[0] in ends) for output in said]


def test_outputs_as_long_as_is_asked(llama: LocalModel) -> None:
    prompt = by_word(llama)
    output = llama.generate(prompt.encoding.ids, 4)
    found = problem(llama, output, "exact", max_new_tokens=9).value(torch.ones(1, len(prompt.units), dtype=torch.bool))
    assert found.tolist() == [[0]]  # it goes on where the output was cut off


@pytest.mark.parametrize("tokens_at_once", [None, 1])
def test_a_model_without_keys_and_values(tokens_at_once: int | None) -> None:
    config = MambaConfig(vocab_size=320, hidden_size=16, num_hidden_layers=2, state_size=4, bos_token_id=2)
    torch.manual_seed(0)
    model = LocalModel(MambaForCausalLM(config).eval(), tiny_tokenizer())
    prompts = written(model, by_word(model), masks(len(by_word(model).units)))
    found, spent = Rewriting(model, (5,), Semantic(max_new_tokens=5), tokens_at_once).written(
        list(map(np.array, prompts))
    )
    assert [list(output or ()) for output in found] == [reference.greedy(model.model, ids, 5) for ids in prompts]
    assert not model.remembers
    assert spent.tokens == sum(5 * len(ids) + 10 for ids in set(map(tuple, prompts)))


# What may be spent


def test_a_budget_of_forwards(llama: LocalModel) -> None:
    keep = masks(len(by_word(llama).units))
    output = llama.generate(by_word(llama).encoding.ids, 5)
    free = problem(llama, output).value(keep)
    held = problem(llama, output, budget=Budget(max_forwards=5))  # one of them for the output's log-probabilities
    found = held.value(keep)
    assert torch.equal(found[:4], free[:4])
    assert found[4:-1].isnan().any()
    assert held.is_partial
    held.logprobs()
    assert held.cost.forwards == 5


def test_a_budget_of_tokens(llama: LocalModel) -> None:
    """What ends early leaves something for others."""
    model = ending("llama")
    prompt = by_word(model)
    keep = masks(len(prompt.units))
    output = generated(model, list(prompt.encoding.ids), 8)
    free = problem(model, output, max_new_tokens=30, tokens_at_once=1)
    truth = free.value(keep)
    most = len(prompt.encoding.ids) + 29
    enough = free.cost.tokens + free.n_tokens + most
    for allowed in (1, 100, enough // 2, enough):
        held = problem(model, output, max_new_tokens=30, tokens_at_once=1, budget=Budget(max_tokens=allowed))
        found = held.value(keep)
        held.logprobs()
        assert held.cost.tokens <= max(allowed, held.n_tokens)
        assert held.cost.tokens >= allowed - 2 * most
        known = ~found.isnan()
        assert torch.equal(found[known], truth[known])
        assert held.is_partial == (allowed < enough)


def test_a_budget_of_time(llama: LocalModel) -> None:
    prompts = list(map(np.array, written(llama, by_word(llama), masks(len(by_word(llama).units)))))
    engine = Rewriting(llama, (5, 6), Semantic())
    found, spent = engine.written(prompts, Allowed(until=time.monotonic()))
    assert found == [None] * len(prompts)
    assert (spent.forwards, spent.tokens) == (0, 0)
    some, _ = engine.written(prompts, Allowed(until=time.monotonic() + 1000))
    assert some == engine.written(prompts)[0]


def test_nothing_asked_and_nothing_allowed(llama: LocalModel) -> None:
    engine = Rewriting(llama, (5, 6), Semantic())
    assert engine.written([])[0] == []
    assert engine.written([np.array([2, 5])], Allowed(forwards=0))[0] == [None]
    poor = problem(llama, (5, 6), budget=Budget(max_forwards=1))
    with pytest.raises(BudgetError):
        build_method("leave_one_out").attribute(poor, np.random.default_rng(0))


def test_out_of_memory() -> None:
    model = LocalModel(copy.deepcopy(tiny_model("llama")), tiny_tokenizer())
    prompts = written(model, by_word(model), masks(len(by_word(model).units)))
    truth = [generated(model, ids, 4) for ids in prompts]
    rows: list[int] = []

    def full(_module, _args, given) -> None:
        rows.append(len(given["input_ids"]))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = model.model.register_forward_pre_hook(full, with_kwargs=True)
    engine = Rewriting(model, (5, 6, 7, 8), Semantic())
    found, spent = engine.written(list(map(np.array, prompts)))
    handle.remove()
    assert found == truth
    assert max(rows) > 2
    assert spent.forwards == len(set(map(tuple, prompts)))
    for message, kind in (("out of memory", RuntimeError), ("another mistake", RuntimeError)):
        handle = model.model.register_forward_pre_hook(lambda *_, m=message: (_ for _ in ()).throw(RuntimeError(m)))
        with pytest.raises(kind, match=message):
            engine.written(list(map(np.array, prompts)))
        handle.remove()


def test_a_memory_budget_makes_batches_smaller() -> None:
    small = LocalModel(tiny_model("llama"), tiny_tokenizer(), memory_budget=200_000)
    prompts = [np.array([2, 5 + i, 7]) for i in range(20)]
    sizes = [
        max(map(len, Rewriting(each, (5,) * 4, Semantic()).batches(prompts, range(20))))
        for each in (small, local("llama"))
    ]
    assert 1 <= sizes[0] < sizes[1] == 20


# What it would cost


@pytest.mark.parametrize("name", ["leave_one_out", "shapley_sampling", "hierarchical"])
def test_a_dry_run_says_at_most_what_is_spent(name: str, llama: LocalModel) -> None:
    prompt = by_word(llama)
    output = llama.generate(prompt.encoding.ids, 5)
    method = build_method(name)
    said = estimate(problem(llama, output), method, np.random.default_rng(0))
    asked = problem(llama, output)
    method.attribute(asked, np.random.default_rng(0))
    asked.logprobs()
    assert said.forwards >= asked.cost.forwards
    assert said.tokens >= asked.cost.tokens
    assert said.backwards == 0
    assert min(said.flops, said.bytes, said.seconds) > 0
    if name == "leave_one_out":
        assert (said.forwards, said.tokens) == (asked.cost.forwards, asked.cost.tokens)


# What cannot be


@pytest.mark.parametrize("method", list_methods(), ids=lambda method: method.name)
def test_methods_that_need_more_are_refused(method, llama: LocalModel) -> None:
    asked = problem(llama, (70, 41))
    if method.needs != {"value"}:
        with pytest.raises(CapabilityError, match=r"which a Semantic target does not give: .* Use .*leave_one_out"):
            method.check(asked)
    elif method.targets is not None:
        with pytest.raises(CapabilityError, match="got semantic"):
            method.check(asked)
    else:
        method.check(asked)


def test_gaps_are_refused(llama: LocalModel) -> None:
    with pytest.raises(CapabilityError, match=r'Use ablation="delete" or Replace\(...\)'):
        problem(llama, (70, 41), ablation="mask")


def test_what_is_too_long(llama: LocalModel) -> None:
    with pytest.raises(ContextWindowError, match="output 90"):
        problem(llama, (70, 41), max_new_tokens=90)
    held = problem(llama, (70, 41), ablation=Replace("long"), max_new_tokens=WINDOW - 25)
    with pytest.raises(ContextWindowError, match="Shorten the prompt"):
        held.value(masks(held.n_units))
    assert held.cost.forwards == 0


def test_output_tokens_are_no_units(llama: LocalModel) -> None:
    asked = problem(llama, (70, 41), output_units=True, per_output=True, over_outputs="min")
    assert asked.n_units == len(by_word(llama).units)
    assert asked.value(asked.everything()).shape == (1, 1)


@pytest.mark.usefixtures("untyped")  # what checks types draws random numbers
def test_the_model_is_as_it_was(demo: LocalModel) -> None:
    before = snapshot(demo.model, demo.tokenizer)
    problem(demo, (267, 289), prompt=by_word(demo, QUESTION)).value(masks(len(by_word(demo, QUESTION).units)))
    assert differences(before, snapshot(demo.model, demo.tokenizer)) == []
