"""Ablated prompts against prompts that are written without the parts, on every architecture family and every road."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from attribution.absence import Remainder, Replace
from attribution.engine import packing, roads
from attribution.engine.ablation import Ablation, Allowed
from attribution.engine.roads import Road
from attribution.errors import CapabilityError, ContextWindowError, InputError, ModelError, NonFiniteError
from attribution.local_problem import LocalProblem
from attribution.models.codec import Codec
from attribution.models.local import LocalModel
from attribution.problem import Budget
from attribution.prompts.prompt import Encoding, Prompt, PromptUnit
from attribution.target import TARGETS, Contrast, read_contrast, read_output
from tests import reference
from tests.tiny import ARCHITECTURES, InFloat64, close, local, tiny_model, tiny_tokenizer

IDS = (2, 40, 41, 60, 41, 77, 90, 120, 33, 50, 61, 62)
UNITS = ((0, 1), (1, 2), (2, 3), (3, 7), (7, 8), (8, 12))
"""The first is special; one has four tokens and so has the last one."""
OUTPUT = (70, 41, 200, 5)
FILL = (70, 71)

every_family = pytest.mark.parametrize("family", ARCHITECTURES)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What one test finds out about a model is not for the next."""
    roads._known.clear()
    yield
    roads._known.clear()


def packed(model: LocalModel) -> None:
    """From now on the model's prompts are packed wherever they can be."""
    roads._known[model.model] = (model.state, Road(works=True, ratio=0.0, measured=10**6, checked=10**6))


def batched(model: LocalModel) -> None:
    """From now on the model's prompts are computed in batches."""
    roads._known[model.model] = (model.state, Road(works=False))


def prompt_of(ids: tuple[int, ...] = IDS, units: tuple[tuple[int, int], ...] = UNITS, special: int = 1) -> Prompt:
    """A prompt of one character for each token."""
    flags = tuple(index < special for index in range(len(ids)))
    offsets = tuple((i - 1, i - 1) if flag else (i - special, i - special + 1) for i, flag in enumerate(flags))
    parts = tuple(
        PromptUnit((max(0, start - special), max(0, end - special)), (start, end), end <= special)
        for start, end in units
    )
    return Prompt("x" * (len(ids) - special), Encoding(ids, offsets, flags), parts)


def problem(model: LocalModel, output: tuple[int, ...] = OUTPUT, prompt: Prompt | None = None, **options):
    return LocalProblem(model, prompt or prompt_of(), read_output(output, TARGETS["logprob"]), **options)


def masks(n_units: int = len(UNITS)) -> torch.Tensor:
    """Everything, nothing, each one alone gone (the first is special), and some at random, one of them twice."""
    drawn = torch.rand(9, n_units, generator=torch.Generator().manual_seed(1)) < 0.5
    keep = torch.cat([torch.ones(1, n_units, dtype=torch.bool), ~torch.eye(n_units, dtype=torch.bool), drawn])
    return torch.cat([keep, torch.zeros(1, n_units, dtype=torch.bool), drawn[:1]])


def expected(model, keep: torch.Tensor, absence: str | tuple[int, ...], output: tuple[int, ...] = OUTPUT, **given):
    """Slow and obvious: every prompt written without the absent units, a forward pass for every output token."""
    ids, units, special = given.get("ids", IDS), given.get("units", UNITS), given.get("special", 1)
    rows = []
    for mask in keep:
        gone = {
            token
            for (start, end), kept in zip(units, mask, strict=True)
            for token in range(start, end)
            if not kept and end > special
        }
        if absence == "delete":
            rows.append(reference.logprobs(model, [t for i, t in enumerate(ids) if i not in gone], list(output)))
        elif absence == "mask":
            rows.append(reference.masked_logprobs(model, list(ids), gone, list(output)))
        else:
            written: list[int] = []
            for start, end in units:
                written += absence if start in gone else ids[start:end]
            rows.append(reference.logprobs(model, written, list(output)))
    return torch.tensor(rows, dtype=torch.float64)


def wide(family: str, dtype: torch.dtype) -> LocalModel:
    """The family's model, with windows as wide as its context where it has any, so that prompts can be packed."""
    model = tiny_model(family, dtype)
    if getattr(model.config, "sliding_window", None) is not None:
        model = copy.deepcopy(model)
        model.config.sliding_window = 96
        for module in model.modules():
            if getattr(module, "sliding_window", None) is not None:
                module.sliding_window = 96
    return LocalModel(model, tiny_tokenizer())


def replacing(monkeypatch: pytest.MonkeyPatch) -> Replace:
    """A text that stands for units as the ids FILL."""
    monkeypatch.setattr(Codec, "encode_output", lambda *_, **__: FILL)
    return Replace("...")


# The roads against the reference


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("absence", ["delete", "mask", "replace"])
@every_family
def test_packed_batched_and_one_by_one(family: str, absence: str, dtype: torch.dtype, monkeypatch) -> None:
    meaning = replacing(monkeypatch) if absence == "replace" else absence
    keep, tolerance = masks(), 1e-5 if dtype == torch.float32 else 1e-10
    with InFloat64() if dtype == torch.float64 else nullcontext():
        for model in {id(m.model): m for m in (local(family, dtype), wide(family, dtype))}.values():
            truth = expected(model.model, keep, FILL if absence == "replace" else absence)
            alone = problem(model, ablation=meaning, tokens_at_once=1)
            batched(model)
            together = problem(model, ablation=meaning)
            found = [alone.value(keep), together.value(keep)]
            packed(model)
            packs = problem(model, ablation=meaning)
            found.append(packs.value(keep))
            for values in found:
                assert close(values.double(), truth, tolerance)
            assert bool(packs.plans([keep])[0].packs) == (model.attention_window in (None, 96))
            assert alone.cost.forwards == together.cost.forwards == packs.cost.forwards


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("absence", ["delete", "mask", "replace"])
@every_family
def test_an_output_of_one_token_and_a_prompt_of_one_unit(family: str, absence: str, dtype, monkeypatch) -> None:
    meaning = replacing(monkeypatch) if absence == "replace" else absence
    ids, units = (2, 40, 41, 60), ((0, 1), (1, 4))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    with InFloat64() if dtype == torch.float64 else nullcontext():
        model = wide(family, dtype)
        for special in (1, 0):  # without a special token nothing at all is left, and the model starts from BOS
            keep = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
            some = keep if special or absence == "replace" else keep[:3]
            prompt, fill = prompt_of(ids, units, special), FILL if absence == "replace" else absence
            truth = expected(model.model, some, fill, (70,), ids=ids, units=units, special=special)
            if len(some) == 3:
                start, gone = ([2], set()) if absence == "delete" else ([41, 41, 41, 2], {0, 1, 2})
                last = reference.masked_logprobs(model.model, start, gone, [70])
                truth = torch.cat([truth, torch.tensor([last], dtype=torch.float64)])
            for road in (packed, batched):
                road(model)
                found = problem(model, (70,), prompt, ablation=meaning).value(keep)
                assert close(found.double(), truth, tolerance)


@every_family
def test_bfloat16(family: str) -> None:
    model, keep = wide(family, torch.bfloat16), masks()
    truth = expected(model.model, keep, "delete")
    for road in (packed, batched):
        road(model)
        values = problem(model).value(keep)
        assert values.dtype == torch.float32
        assert close(values.double(), truth, 5e-2)


@pytest.mark.parametrize("road", [packed, batched])
@pytest.mark.parametrize("gone", range(len(OUTPUT)))
def test_a_deleted_output_token(gone: int, road) -> None:
    """It changes what comes after it only, which is then predicted from the tokens that are left."""
    model = local("llama")
    road(model)
    keep = torch.ones(2, len(UNITS) + len(OUTPUT), dtype=torch.bool)
    keep[0, len(UNITS) + gone] = False
    truth = reference.logprobs(model.model, list(IDS), list(OUTPUT))
    truth[gone + 1 :] = reference.logprobs(model.model, [*IDS, *OUTPUT[:gone]], list(OUTPUT[gone + 1 :]))
    found = problem(model, output_units=True).value(keep)
    assert close(found[0].double(), torch.tensor(truth, dtype=torch.float64))


def test_a_contrast_is_read_in_all_its_texts(llama: LocalModel) -> None:
    from attribution.explainer import explain

    prompt, contrast = "Sam has 3 apples.", Contrast(" A longer one", " Another", instead_of=" The")
    found = []
    for road in (packed, batched):
        road(llama)
        found.append(explain(llama, prompt, output=" The end", target=contrast, units="token", method="leave_one_out"))
    assert np.allclose(found[0].scores, found[1].scores, atol=1e-4)
    assert found[0].output_scores is not None
    assert np.allclose(found[0].output_scores, found[1].output_scores, atol=1e-4)


@pytest.mark.parametrize("others", [[(70, 3, 9)], [(70, 41, 200, 7), (9,)]])
def test_the_first_thing_that_is_asked_of_a_model_is_a_contrast(others: list[tuple[int, ...]]) -> None:
    """What is read of it is something else than the output's own tokens, of which the trial of both roads knows."""
    model = LocalModel(copy.deepcopy(tiny_model("llama")), tiny_tokenizer())
    reading = read_contrast(OUTPUT, others, 0, len(OUTPUT))
    found = LocalProblem(model, prompt_of(), reading).value(masks())
    assert roads.road(model).checked
    assert roads.road(model).works
    batched(model)
    assert close(found, LocalProblem(model, prompt_of(), reading).value(masks()))


def test_several_texts_to_replace_by_are_averaged(llama: LocalModel) -> None:
    from attribution.explainer import explain

    def total(*fillers) -> np.ndarray:
        return explain(
            llama, "Sam has 3 apples.", output=" The", ablation=Replace(*fillers), method="leave_one_out"
        ).scores

    assert np.allclose(total("...", "!!"), (total("...") + total("!!")) / 2, atol=1e-5)
    own = ["Tom", "had", "5", "pears", "!"]
    assert not np.allclose(total(own), total("..."), atol=1e-3)
    assert np.allclose(total(own, "..."), (total(own) + total("...")) / 2, atol=1e-5)
    written = llama.codec.encode("Tom has 3 apples.").ids
    plain = explain(llama, "Sam has 3 apples.", output=" The", method="leave_one_out")
    replaced = reference.logprobs(llama.model, list(written), [plain.outputs[0].id])[0]
    assert total(own)[0, 1] == pytest.approx(plain.outputs[0].logprob - replaced, abs=1e-4)
    with pytest.raises(InputError, match=r"Expected 5 texts to replace units by, one for each .* got 2"):
        total(["a", "b"])


# Packs


def remainders_of(count: int, length: int, seed: int) -> tuple[Remainder, list[Remainder]]:
    """A text, and what random deletions leave of it; the last two tokens are read."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(3, 9, length)  # few kinds of tokens: deletions that are different leave the same text

    def left(keep: np.ndarray) -> Remainder:
        there = np.flatnonzero(np.append(keep, [True, True]))
        rows = np.array([len(there) - 2, len(there) - 1])
        return Remainder(ids[there], np.arange(len(there)), rows, np.array([5, 6]))

    return left(np.ones(length - 2, bool)), [left(generator.random(length - 2) < 0.7) for _ in range(count)]


@pytest.mark.parametrize("tokens_at_once", [1, 37, 200, 5000])
@pytest.mark.parametrize("seed", range(3))
def test_packs_hold_every_branch_once(tokens_at_once: int, seed: int) -> None:
    whole, remainders = remainders_of(40, 30, seed)
    for trunk in (whole, None):
        packs = list(packing.packs(packing.branches(remainders, trunk), tokens_at_once, 1e-3))
        assert sorted(index for pack in packs for index in pack.indices) == list(range(40))
        for pack in packs:
            assert pack.tokens <= tokens_at_once or len(pack.indices) == 1
            given = packing.inputs(pack, remainders)
            # Read back: what each token that is read looks at, in the order of positions, is its remainder's text.
            reads = iter(given.reads)
            for branch in (branch for row in pack.rows for branch in row):
                mine = remainders[branch.index]
                for row in mine.rows:
                    line, place = divmod(int(next(reads)), pack.width)
                    seen = np.flatnonzero(given.sees[line, place])
                    text = [whole.ids[i] if i < pack.prefix else given.ids[line, i - pack.prefix] for i in seen]
                    assert text == mine.ids[: row + 1].tolist()


def test_neighbours_share_what_they_have_in_common() -> None:
    """Deleting from a permutation's coalitions, one unit after the other, shares about half with the neighbour."""
    ids = np.arange(3, 43)
    order = np.random.default_rng(0).permutation(38)
    remainders = []
    for size in range(1, 38):
        keep = np.append(np.isin(np.arange(38), order[:size]), [True, True])
        count = int(keep.sum())
        remainders.append(Remainder(ids[keep], np.arange(count), np.array([count - 1]), np.array([5])))
    found = packing.branches(remainders, None)
    own = sum(branch.length - branch.beyond for branch in found)
    assert own < 0.75 * sum(len(remainder.ids) for remainder in remainders)
    assert all(b.beyond >= b.shared for b in found)
    assert all(a.shared <= b.shared for a, b in pairwise(found))


def test_leave_one_out_computes_only_the_tails() -> None:
    model = local("llama")
    packed(model)
    ids = tuple(range(10, 50))
    units = tuple((i, i + 1) for i in range(40))
    asked = problem(model, prompt=prompt_of(ids, units, 0))
    asked.value(torch.cat([asked.everything(), ~torch.eye(40, dtype=torch.bool)]))
    whole = 40 + len(OUTPUT) - 1
    assert asked.cost.forwards == 41
    # The whole text once, then behind each gap what follows it (at least the last token before the output).
    tails = sum(max(whole - 1 - gone, len(OUTPUT)) for gone in range(40))
    assert whole + tails <= asked.cost.tokens <= whole + 1.1 * tails


# What is asked twice, and what may be spent


def test_nothing_is_computed_twice() -> None:
    model = local("llama")
    batched(model)
    asked = problem(model)
    keep = masks()
    asked.value(keep)
    count = asked.cost.forwards
    assert count == len(torch.unique(keep | torch.tensor([True] + [False] * 5), dim=0))
    again = asked.value(keep.flip(0))
    assert asked.cost.forwards == count
    assert torch.equal(again.flip(0), asked.value(keep))
    # Different units, the same text: either of two equal neighbours may go.
    twins = problem(model, prompt=prompt_of((2, 40, 40, 41), ((0, 1), (1, 2), (2, 3), (3, 4))))
    found = twins.value(torch.tensor([[True, False, True, True], [True, True, False, True]]))
    assert twins.cost.forwards == 1
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("road", [packed, batched])
def test_a_budget_of_forwards(road) -> None:
    model = local("llama")
    road(model)
    keep = masks()
    free = problem(model).value(keep)
    held = problem(model, budget=Budget(max_forwards=5))
    found = held.value(keep)
    assert held.cost.forwards <= 5
    assert held.is_partial
    assert close(found[:5], free[:5])  # those that were asked first
    assert found[6:-1].isnan().any()
    rest = problem(model, budget=Budget(max_forwards=100))
    rest.value(keep)
    assert not rest.is_partial


@pytest.mark.parametrize("road", [packed, batched])
def test_a_budget_of_tokens(road) -> None:
    model = local("llama")
    road(model)
    keep = masks()
    free = problem(model)
    values = free.value(keep)
    half = free.cost.tokens // 2
    held = problem(model, budget=Budget(max_tokens=half))
    found = held.value(keep)
    assert 0 < held.cost.tokens <= half
    assert held.is_partial
    known = ~found.isnan().any(1)
    assert known[0]
    assert 1 < int(known.sum()) < len(keep)
    assert close(found[known], values[known])


def test_a_budget_of_time() -> None:
    model = local("llama")
    over = problem(model, budget=Budget(max_seconds=1e-9))
    assert over.value(masks()).isnan().all()
    assert over.is_partial
    enough = problem(model, budget=Budget(max_seconds=1e9))
    assert close(enough.value(masks()), problem(model).value(masks()))


def test_what_is_known_is_not_asked_again() -> None:
    model = local("llama")
    first = problem(model, budget=Budget(max_forwards=4))
    first.value(masks())
    assert len(first.evaluations) == 4
    second = problem(model)
    second.remember(first.evaluations)
    values = second.value(masks())
    free = problem(model)
    assert close(values, free.value(masks()))
    assert second.cost.forwards == free.cost.forwards - 4
    with pytest.raises(InputError, match="Expected evaluations of 10 units and 4 targets, got 6 and 4"):
        problem(model, output_units=True).remember(first.evaluations)


# The choice of the road


def test_the_road_is_tried_once_and_what_it_costs_is_counted() -> None:
    model = LocalModel(copy.deepcopy(tiny_model("llama")), tiny_tokenizer())
    first, second = problem(model), problem(model)
    assert torch.equal(first.value(masks()), second.value(masks()))
    assert roads.road(model).works
    assert roads.road(model).checked == len(IDS) + len(OUTPUT) - 2
    assert first.cost.tokens > second.cost.tokens
    assert first.cost.forwards == second.cost.forwards


def everything(sees: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(sees)


def all_before(sees: torch.Tensor) -> torch.Tensor:
    width, seen = sees.shape[1:]
    return torch.ones(width, seen, dtype=torch.bool).tril(seen - width).expand_as(sees)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("target", ["logprob", "prob"])
@pytest.mark.parametrize("fault", [everything, all_before, "positions"])
def test_packing_that_gives_something_else_is_noticed(fault, target: str, dtype, monkeypatch) -> None:
    """As of a model that does not heed its mask, or counts positions by itself."""
    model = LocalModel(copy.deepcopy(tiny_model("llama", dtype)), tiny_tokenizer())
    own = LocalModel.logits_after

    def forgetful(self, memory, length, ids, positions, sees, reads):
        if fault == "positions":
            positions = (torch.arange(ids.shape[1]) + length).expand_as(positions)
        return own(self, memory, length, ids, positions, sees if fault == "positions" else fault(sees), reads)

    monkeypatch.setattr(LocalModel, "logits_after", forgetful)
    asked = LocalProblem(model, prompt_of(), read_output(OUTPUT, TARGETS[target]))
    with pytest.warns(UserWarning, match="Packed prompts and plain ones differ by"):
        asked.value(masks())
    assert not roads.road(model).works
    found = problem(model).value(masks())  # and no further warning
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    assert close(found.double(), expected(model.model, masks(), "delete"), tolerance)


def test_too_few_to_be_tried_are_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method may begin with the whole prompt and the empty one; no wrong number of these is kept."""
    model = LocalModel(copy.deepcopy(tiny_model("llama")), tiny_tokenizer())
    own = LocalModel.logits_after
    monkeypatch.setattr(LocalModel, "logits_after", lambda *given: own(*given[:5], everything(given[5]), given[6]))
    asked = problem(model)
    first = asked.value(masks()[[0, 3, -2]])
    with pytest.warns(UserWarning, match="Packed prompts and plain ones differ by"):
        rest = asked.value(masks())
    truth = expected(model.model, masks(), "delete")
    assert close(first.double(), truth[[0, 3, -2]])
    assert close(rest.double(), truth)


def test_no_budget_is_left() -> None:
    model = local("llama")
    spent = problem(model, budget=Budget(max_tokens=1))
    assert spent.value(masks()).isnan().all()
    assert spent.cost.tokens <= 3 * 4 * (len(IDS) + len(OUTPUT))  # at most what is tried out once
    asked = LocalProblem(model, prompt_of(), read_output(OUTPUT, TARGETS["prob"]), budget=Budget(max_forwards=5))
    asked.value(masks())
    asked.logprobs()
    assert asked.cost.forwards == 5  # what the result's own log-probabilities take is kept back


def test_a_window_as_long_as_the_text() -> None:
    """The model then forgets what its window has left; packing goes on where texts are shorter."""
    model = LocalModel(copy.deepcopy(tiny_model("mistral")), tiny_tokenizer())  # a window of 8
    for count in (4, 5, 6, 3):
        ids = tuple(range(10, 10 + count))
        prompt = prompt_of(ids, tuple((i, i + 1) for i in range(count)), 0)
        keep = ~torch.eye(count, dtype=torch.bool)
        truth = expected(model.model, keep, "delete", ids=ids, units=[(i, i + 1) for i in range(count)], special=0)
        assert close(problem(model, prompt=prompt).value(keep).double(), truth)
    assert roads.road(model).works


def test_out_of_memory_on_masks_only() -> None:
    model = LocalModel(copy.deepcopy(tiny_model("llama")), tiny_tokenizer())
    packed(model)

    def full(_module, _args, given):
        if given.get("attention_mask") is not None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = model.model.register_forward_pre_hook(full, with_kwargs=True)
    found = problem(model).value(masks())
    handle.remove()
    assert close(found.double(), expected(model.model, masks(), "delete"))


def test_packing_that_a_model_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(copy.deepcopy(tiny_model("llama")), tiny_tokenizer())

    def refuse(*_given):
        raise ValueError("attention mask should be 2-D")

    monkeypatch.setattr(LocalModel, "logits_after", refuse)
    assert close(problem(model).value(masks()).double(), expected(model.model, masks(), "delete"))


def test_longer_prompts_are_checked_again() -> None:
    model = LocalModel(copy.deepcopy(tiny_model("llama")), tiny_tokenizer())
    problem(model).value(masks())
    short = roads.road(model).checked
    ids = tuple(range(10, 70))
    asked = problem(model, prompt=prompt_of(ids, tuple((i, i + 1) for i in range(60)), 0))
    asked.value(~torch.eye(60, dtype=torch.bool))
    assert roads.road(model).checked > 2 * short


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_both_implementations_of_attention(implementation: str) -> None:
    model = copy.deepcopy(tiny_model("qwen3"))
    model.set_attn_implementation(implementation)
    held = LocalModel(model, tiny_tokenizer())
    packed(held)
    assert problem(held).plans([masks()])[0].packs
    assert close(problem(held).value(masks()).double(), expected(model, masks(), "delete"))


def test_a_recurrent_model() -> None:
    config = MambaConfig(vocab_size=320, hidden_size=16, num_hidden_layers=2, state_size=4, bos_token_id=2)
    torch.manual_seed(0)
    model = LocalModel(MambaForCausalLM(config).eval(), tiny_tokenizer())
    assert not model.takes_masks
    assert close(problem(model).value(masks()).double(), expected(model.model, masks(), "delete"))


def test_a_model_that_does_not_heed_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(copy.deepcopy(tiny_model("llama")), tiny_tokenizer())
    own = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda attention_mask=None, **given: own(**given))
    with pytest.raises(CapabilityError, match='ablation="mask" needs a model that heeds attention masks'):
        problem(model, ablation="mask").value(masks())


# Memory


@pytest.mark.parametrize("road", [packed, batched])
def test_a_memory_budget_makes_passes_smaller(road) -> None:
    model = LocalModel(copy.deepcopy(tiny_model("llama")), tiny_tokenizer(), memory_budget=100_000)
    road(model)
    roomy = LocalModel(model.model, tiny_tokenizer())
    assert problem(model).plans([masks()])[0].passes > problem(roomy).plans([masks()])[0].passes
    assert close(problem(model).value(masks()), problem(roomy).value(masks()))


@pytest.mark.parametrize("road", [packed, batched])
def test_out_of_memory(road, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(copy.deepcopy(tiny_model("llama")), tiny_tokenizer())
    road(model)
    truth = problem(model).value(masks())
    sizes: list[int] = []

    def full(_module, _args, given):
        sizes.append(given["input_ids"].numel())
        if sizes[-1] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate everything.")

    handle = model.model.register_forward_pre_hook(full, with_kwargs=True)
    found = problem(model)
    assert close(found.value(masks()), truth)
    assert max(sizes) > 40
    assert found.cost.forwards == len(torch.unique(masks() | torch.tensor([True] + [False] * 5), dim=0))
    handle.remove()
    handle = model.model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        problem(model).value(masks())
    handle.remove()


def test_the_head_reads_scored_rows_only() -> None:
    model = LocalModel(copy.deepcopy(tiny_model("llama")), tiny_tokenizer())
    rows: list[int] = []
    head = model.model.get_output_embeddings()
    for road in (packed, batched):
        road(model)
        handle = head.register_forward_hook(lambda _m, _i, out: rows.append(out.numel() // out.shape[-1]))
        asked = problem(model)
        asked.value(masks())
        handle.remove()
        assert sum(rows) == asked.cost.forwards * len(OUTPUT)
        rows.clear()


# What cannot be


def test_no_start_token() -> None:
    tokenizer = type(tiny_tokenizer())(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    model = LocalModel(tiny_model("llama"), tokenizer)
    with pytest.raises(ModelError, match="neither a BOS nor an EOS"):
        problem(model, prompt=prompt_of(special=0)).value(torch.zeros(1, len(UNITS), dtype=torch.bool))


@pytest.mark.parametrize("road", [packed, batched])
def test_logits_that_are_not_finite(road) -> None:
    broken = copy.deepcopy(tiny_model("llama"))
    with torch.no_grad():
        broken.get_output_embeddings().weight[OUTPUT[1]] = float("inf")
    model = LocalModel(broken, tiny_tokenizer())
    road(model)
    with pytest.raises(NonFiniteError):
        problem(model).value(masks())


def test_special_tokens_go_only_where_that_is_asked() -> None:
    model = local("llama")
    keep = torch.tensor([[False, True, True, True, True, True]])
    kept = problem(model).value(keep).double()
    assert close(kept, torch.tensor([reference.logprobs(model.model, list(IDS), list(OUTPUT))]))
    gone = problem(model, ablate_special=True).value(keep).double()
    assert close(gone, torch.tensor([reference.logprobs(model.model, list(IDS[1:]), list(OUTPUT))]))


def test_texts_to_replace_by_that_do_not_fit(llama: LocalModel) -> None:
    from attribution.explainer import explain

    with pytest.raises(ContextWindowError, match=r"with Replace\('(long )+'\) the prompt may come to \d+"):
        explain(llama, "Sam has 3 apples.", output=" The", ablation=Replace("long " * 12), method="leave_one_out")


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("wrong", [(), ("",), (["a", ""],), (3,), ([3],), (None,)])
def test_no_texts_to_replace_by(wrong: tuple) -> None:
    with pytest.raises(InputError, match="Expected the texts that stand for an absent unit"):
        Replace(*wrong)


def test_engine_answers_nothing_when_nothing_is_asked() -> None:
    model = local("llama")
    engine = Ablation(model, problem(model)._layouts.whole)
    found, spent = engine.scores([engine.whole], TARGETS["logprob"], Allowed(forwards=0))
    assert found.isnan().all()
    assert spent.forwards == spent.tokens == 0
