"""Loading models, asking them, and leaving them as they were found."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel, PreTrainedModel

import attribution
from attribution.errors import ContextWindowError, InputError, ModelError, ModelLoadError, NonFiniteError
from attribution.explainer import explain
from attribution.local_attribution import LocalLLMAttributor
from attribution.method import list_methods
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.models.local import LocalModel
from tests.reference import greedy
from tests.state import differences, snapshot
from tests.tiny import ARCHITECTURES, WINDOW, metaspace_tokenizer, tiny_model, tiny_tokenizer
from tests.tokenizers_ import slow_tokenizer

PROMPT = "Sam has 3 apples."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A folder as `save_pretrained` writes it."""
    path = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


# Loading


def test_a_folder(folder) -> None:
    for source in (folder, str(folder)):
        model = attribution.load(source)
        assert not model.model.training
        assert torch.equal(model.embedding_layer.weight, tiny_model("llama").get_input_embeddings().weight)
        assert explain(model, PROMPT, max_new_tokens=2, method="leave_one_out").model["name"] == str(folder)


def test_options_pass_through(folder) -> None:
    model = attribution.load(folder, dtype=torch.bfloat16, attn_implementation="eager", device_map="cpu")
    assert model.model.dtype == torch.bfloat16
    assert model.model.config._attn_implementation == "eager"
    assert str(model.device) == "cpu"


def test_a_pair_and_a_loaded_model() -> None:
    model = attribution.load((tiny_model("gpt2"), tiny_tokenizer()))
    assert model.model is tiny_model("gpt2")
    assert attribution.load(model) is model


def test_explain_takes_what_load_takes() -> None:
    result = explain((tiny_model("gpt2"), tiny_tokenizer()), PROMPT, max_new_tokens=2, method="leave_one_out")
    assert result.model["architecture"] == "GPT2LMHeadModel"


def test_nothing_there(tmp_path) -> None:
    with pytest.raises(ModelLoadError, match="No model could be loaded from"):
        attribution.load(tmp_path)
    with pytest.raises(ModelLoadError, match="no-such/model"):
        attribution.load("no-such/model")


def test_pickled_weights_are_not_read_unless_asked(folder, tmp_path) -> None:
    for file in folder.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(tiny_model("llama").state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="safetensors"):
        attribution.load(tmp_path)
    assert attribution.load(tmp_path, use_safetensors=False).vocabulary_size == 320


def test_remote_code_does_not_run_unless_asked(folder, tmp_path) -> None:
    import json

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(ModelLoadError, match="trust_remote_code"):
        attribution.load(tmp_path)


@pytest.mark.usefixtures("untyped")
def test_no_source() -> None:
    with pytest.raises(InputError, match=r"got LlamaForCausalLM\. For a model that you hold"):
        attribution.load(tiny_model("llama"))
    with pytest.raises(InputError, match="a tuple of 3"):
        attribution.load((1, 2, 3))
    with pytest.raises(InputError, match="language model of transformers, got str"):
        attribution.load(("gpt2", tiny_tokenizer()))
    with pytest.raises(InputError, match="tokenizer that can be called"):
        attribution.load((tiny_model("llama"), "gpt2"))
    with pytest.raises(InputError, match="got dtype"):
        attribution.load((tiny_model("llama"), tiny_tokenizer()), dtype=torch.float16)


# What it is


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_architecture_says_what_it_is(family: str) -> None:
    model = LocalModel(tiny_model(family), tiny_tokenizer())
    assert model.vocabulary_size == 320
    assert model.context_window == WINDOW
    assert model.stop_ids == {1}
    assert model.codec.start_id == 2
    assert model.describe()["architecture"] == type(tiny_model(family)).__name__


def test_weights_that_are_missing(folder, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "layers.1.mlp" not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ModelLoadError, match="incomplete, and would be random"):
        attribution.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="No model could be loaded"):
        attribution.load(tmp_path)


def test_a_config_that_wants_tuples() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    model.config.return_dict = False
    assert explain((model, tiny_tokenizer()), PROMPT, max_new_tokens=2, method="leave_one_out").scores.any()


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = type(tiny_model("llama"))(tiny_model("llama").config).eval()
    with pytest.raises(ModelError, match="inference_mode"):
        explain((model, tiny_tokenizer()), PROMPT, method="leave_one_out")


def test_a_tokenizer_of_another_model() -> None:
    config = type(tiny_model("llama").config)(**tiny_model("llama").config.to_dict() | {"vocab_size": 100})
    small = type(tiny_model("llama"))(config).eval()
    with pytest.raises(ModelError, match=r"gave id \d+ and the model's embedding has 100 rows"):
        explain((small, tiny_tokenizer()), PROMPT, method="leave_one_out")


def test_a_slow_tokenizer() -> None:
    """It gives no offsets: they are found by aligning, and the result says so."""
    result = explain((tiny_model("llama"), slow_tokenizer()), PROMPT + " é", output=[20], method="saliency")
    assert result.notes["aligned"] is True
    assert [unit.text for unit in result.units] == [*PROMPT.removesuffix(".").split(), ".", "é", "</s>"]
    assert [unit.role for unit in result.units][-2:] == ["prompt", "special"]
    assert result.units[-2].last_token - result.units[-2].first_token == 3  # a space and two bytes


def test_context_window() -> None:
    model = LocalModel(tiny_model("llama"), tiny_tokenizer())
    long = " ".join(["apples"] * WINDOW)
    with pytest.raises(ContextWindowError, match=f"at most {WINDOW} tokens and the prompt has {WINDOW + 2}"):
        explain(model, long, max_new_tokens=1, method="leave_one_out")
    with pytest.raises(ContextWindowError):
        explain(model, "apples", output=long, method="leave_one_out")


def test_a_model_that_does_not_write_on() -> None:
    for kind in (BertModel, BertForMaskedLM):
        encoder = kind(BertConfig(vocab_size=320, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).eval()
        with pytest.raises(InputError, match=f"got {kind.__name__}. Load it with AutoModelForCausalLM"):
            explain((encoder, tiny_tokenizer()), PROMPT, method="leave_one_out")


# Text and ids


def test_a_given_output_keeps_the_ids_of_the_prompt(llama: LocalModel) -> None:
    ids = llama.codec.encode(PROMPT).ids
    output = llama.codec.encode_output(PROMPT, ids, " The answer")
    assert llama.codec.decode([*ids, *output]) == "<bos>" + PROMPT + " The answer"
    # "Sam ha" + "s 3" would be tokenized across the seam; the prompt's ids come first.
    ids = llama.codec.encode("Sam ha").ids
    assert llama.codec.decode(llama.codec.encode_output("Sam ha", ids, "s 3")) == "s 3"


@pytest.mark.parametrize("seam", [("Sam ha", "s 3"), ("Sam has", " 3 apples"), ("Sam", "\n\nThe"), ("Sam", " é😀 x")])
def test_a_tokenizer_that_marks_the_start_of_words(seam: tuple[str, str]) -> None:
    """SentencePiece's way: a text gets a space in front, and decoding drops it. Neither may happen in mid-text."""
    prompt, output = seam
    result = explain((tiny_model("llama"), metaspace_tokenizer()), prompt, output=output, method="leave_one_out")
    assert result.output == output
    ids = [*metaspace_tokenizer()(prompt)["input_ids"], *(o.id for o in result.outputs)]
    assert metaspace_tokenizer().decode(ids) == prompt + output


def test_an_output_that_a_tokenizer_cannot_write() -> None:
    lossy = metaspace_tokenizer()
    with pytest.raises(InputError, match="Pass its ids instead"):
        explain((tiny_model("llama"), lossy), "Sam ha", output="s\u25813", method="leave_one_out")


def test_output_texts_add_up(llama: LocalModel) -> None:
    text = "é 😀 3\n"
    ids = llama.tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = llama.codec.output_texts([2], ids)
    assert "".join(texts) == text
    assert texts[0] == "é"
    assert texts[1] == ""  # its second byte
    # An output may end in the middle of a character.
    assert llama.codec.output_texts([2], ids[:1]) == ["\N{REPLACEMENT CHARACTER}"]
    # A byte that is no character does not take the next token's text.
    letter = llama.tokenizer("a", add_special_tokens=False)["input_ids"]
    assert llama.codec.output_texts([2], [*ids[:1], *letter, *letter]) == ["\N{REPLACEMENT CHARACTER}", "a", "a"]


# Generating


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_greedy_generation_on_every_architecture(family: str) -> None:
    model = LocalModel(tiny_model(family), tiny_tokenizer())
    ids = list(model.codec.encode(PROMPT).ids)
    assert list(model.generate(ids, 12, stop=False)) == greedy(model.model, ids, 12)


def test_generation_stops_where_the_text_ends(llama: LocalModel) -> None:
    ids = list(llama.codec.encode(PROMPT).ids)
    whole = llama.generate(ids, 8, stop=False)
    ending = copy.deepcopy(llama.model)
    ending.generation_config.eos_token_id = [whole[3], 999]
    stopping = LocalModel(ending, llama.tokenizer)
    assert stopping.generate(ids, 8) == whole[: whole.index(whole[3]) + 1]
    assert stopping.generate(ids, 8, stop=False) == whole


def test_the_generation_config_does_not_change_what_greedy_means(llama: LocalModel) -> None:
    ids = list(llama.codec.encode(PROMPT).ids)
    tempted = copy.deepcopy(llama.model)
    tempted.generation_config.update(do_sample=True, repetition_penalty=3.0, max_new_tokens=1, num_beams=3)
    assert LocalModel(tempted, llama.tokenizer).generate(ids, 6) == llama.generate(ids, 6)


@pytest.mark.usefixtures("untyped")
def test_a_model_without_a_cache(llama: LocalModel) -> None:
    class Forgetful(torch.nn.Module):
        """Answers as the model does and keeps nothing."""

        def __init__(self, inner: PreTrainedModel) -> None:
            super().__init__()
            self.inner, self.config = inner, inner.config

        def get_input_embeddings(self):
            return self.inner.get_input_embeddings()

        def forward(self, input_ids, use_cache):
            answer = self.inner(input_ids=input_ids, use_cache=False)
            answer.past_key_values = None
            return answer

    model = LocalModel(Forgetful(llama.model).eval(), llama.tokenizer)
    ids = list(llama.codec.encode(PROMPT).ids)
    assert model.generate(ids, 5, stop=False) == llama.generate(ids, 5, stop=False)


# As found


def unusual(family: str):
    """A model as a user may hold it: partly frozen, with gradients, a hook, and a config of their own."""
    model = copy.deepcopy(tiny_model(family))
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    model.get_input_embeddings().register_forward_hook(lambda *_: None)
    model.config.use_cache = False
    model.generation_config.update(do_sample=True, temperature=0.5)
    return model


@pytest.mark.slow
@pytest.mark.usefixtures("untyped")  # the type checker of the tests draws random numbers
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
def test_everything_is_left_as_found(family: str) -> None:
    model, tokenizer = unusual(family), tiny_tokenizer()
    before = snapshot(model, tokenizer)
    for method in list_methods():
        explain((model, tokenizer), PROMPT, max_new_tokens=3, method=method, units="token")
    door = LocalLLMAttributor(model, tokenizer, model.get_input_embeddings().weight.detach())
    door.compute_attributions(PROMPT, 3)
    door.cleanup()
    assert differences(before, snapshot(model, tokenizer)) == []


@pytest.mark.usefixtures("untyped")
def test_everything_is_left_as_found_after_an_error_in_the_backward() -> None:
    model, tokenizer = unusual("llama"), tiny_tokenizer()

    def fail(_gradient):
        raise RuntimeError("power cut")

    def plant(_module, _inputs, output):
        if output.requires_grad:
            output.register_hook(fail)

    model.model.layers[1].register_forward_hook(plant)
    before = snapshot(model, tokenizer)
    with pytest.raises(RuntimeError, match="power cut"):
        explain((model, tokenizer), PROMPT, max_new_tokens=2, method="saliency")
    assert differences(before, snapshot(model, tokenizer)) == []


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("at_call", range(1, 6))
def test_everything_is_left_as_found_after_an_error(at_call: int) -> None:
    """The model raises in the middle of the n-th forward pass, wherever that is."""
    model, tokenizer = unusual("llama"), tiny_tokenizer()
    calls = 0

    def fail(*_):
        nonlocal calls
        calls += 1
        if calls == at_call:
            raise RuntimeError("power cut")

    model.model.layers[1].register_forward_hook(fail)
    before = snapshot(model, tokenizer)
    for method in list_methods():
        calls = 0
        with pytest.raises(RuntimeError, match="power cut"):
            explain((model, tokenizer), PROMPT, max_new_tokens=4, method=method)
    calls = 0
    with pytest.raises(RuntimeError, match="power cut"):
        LocalLLMAttributor(model, tokenizer, model.get_input_embeddings().weight).compute_attributions(PROMPT, 5)
    assert differences(before, snapshot(model, tokenizer)) == []


def test_the_snapshot_notices() -> None:
    """The check itself: each of these changes must be seen."""
    model, tokenizer = unusual("llama"), tiny_tokenizer()
    before = snapshot(model, tokenizer)
    parameters = list(model.parameters())
    parameters[0].requires_grad_(True)
    parameters[1].grad.zero_()
    model.train()
    model.register_forward_hook(lambda *_: None)
    model.config.use_cache = True
    model.generation_config.do_sample = False
    torch.rand(1)
    logging.getLogger("transformers").setLevel(logging.DEBUG)
    seen = differences(before, snapshot(model, tokenizer))
    logging.getLogger("transformers").setLevel(logging.WARNING)
    assert {"requires_grad", "grad", "mode", "hooks", "config", "generation config", "torch rng", "loggers"} <= set(
        seen
    )


@pytest.mark.parametrize("surroundings", [torch.no_grad, torch.inference_mode])
def test_gradients_where_the_user_switched_them_off(surroundings, llama: LocalModel) -> None:
    expected = explain(llama, PROMPT, output=" The", method="saliency").scores
    with surroundings():
        assert (explain(llama, PROMPT, output=" The", method="saliency").scores == expected).all()


def test_training_mode() -> None:
    model = copy.deepcopy(tiny_model("gpt2")).train()
    for method in list_methods():
        with pytest.raises(ModelError, match=r"training mode\. Call model\.eval\(\)"):
            explain((model, tiny_tokenizer()), PROMPT, output=" The", method=method)
    model.eval()
    model.transformer.h[0].attn.attn_dropout.train()
    with pytest.raises(ModelError, match=r"'transformer\.h\.0\.attn\.attn_dropout' is in training mode"):
        explain((model, tiny_tokenizer()), PROMPT, method="leave_one_out")


def test_nan_weights() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(NonFiniteError, match="logits are NaN"):
        explain((model, tiny_tokenizer()), PROMPT, method="leave_one_out")


def test_the_demo_model_is_loaded_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    model = attribution.load("demo")
    assert model.name == "demo"
    assert model.model.dtype == torch.float32
    assert capfd.readouterr() == ("", "")


def test_the_demo_folder_is_an_ordinary_model_folder(demo: LocalModel) -> None:
    from attribution.models.demo import FOLDER

    assert AutoTokenizer.from_pretrained(FOLDER).get_vocab() == demo.tokenizer.get_vocab()


# Threads and defaults of the process


@pytest.mark.usefixtures("untyped")
def test_threads_share_a_model() -> None:
    """Each gets its own numbers, the user's own passes too, and the model is as it was."""
    from concurrent.futures import ThreadPoolExecutor

    model, tokenizer = copy.deepcopy(tiny_model("llama")), tiny_tokenizer()
    methods = ["leave_one_out", "saliency", "attn_lrp", "attention_rollout", IntegratedGradients(baseline="mean")]
    ids = torch.tensor([[2, 40, 41, 60]])

    def run(method) -> np.ndarray:
        if method is None:
            with torch.no_grad():
                return model(ids).logits.numpy()
        return explain((model, tokenizer), PROMPT, output=" The answer", method=method).scores

    jobs = [*methods, None] * 4
    expected = [run(method) for method in jobs]
    before = snapshot(model, tokenizer)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, jobs))
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one, other, atol=1e-5)
    assert differences(before, snapshot(model, tokenizer)) == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_changes_nothing(dtype: torch.dtype, llama: LocalModel) -> None:
    names = [method.name for method in list_methods()]
    expected = [explain(llama, PROMPT, output=" The answer", method=name) for name in names]
    torch.set_default_dtype(dtype)
    try:
        found = [explain(llama, PROMPT, output=" The answer", method=name) for name in names]
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one.scores, other.scores, atol=1e-4 * np.abs(other.scores).max())
