"""The gradient matrix of a given output, against Captum and Inseq: `python -m benchmarks.gradient`.

A random model of GPT-2's shape (12 layers, 768 wide, 124M parameters, float32) reads N random tokens and then T more;
asked is a number for each of the T outputs and each token before it. The libraries take turns, and what is compared are
medians over the rounds, since single times on a shared machine say little. F is the median of one plain forward pass
over prompt and output with one row of logits, measured in the same rounds.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from attribution.explainer import explain
from attribution.models.local import LocalModel

SIZES = ((17, 7), (187, 16))


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer in which token i is the word "wi", so that every library reads the same ids."""
    words = {f"w{i}": i for i in range(size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w0", pad_token="w1", eos_token="w2", bos_token="w3"
    )


def contestants(
    model: GPT2LMHeadModel, tokenizer: Any, prompt: Sequence[int], output: Sequence[int]
) -> dict[str, Callable[[], object]]:
    """The same question to each library, as its own documentation asks it; and one plain forward pass."""
    import inseq  # pyright: ignore[reportMissingImports] - of the bench group
    from captum.attr import LayerGradientXActivation, LLMGradientAttribution, TextTokenInput  # pyright: ignore[reportMissingImports]

    prompt_text = " ".join(f"w{i}" for i in prompt)
    output_text = " ".join(f"w{i}" for i in output)
    ours = LocalModel(model, tokenizer, name="GPT-2 shape")
    captum: Any = LLMGradientAttribution(LayerGradientXActivation(model, model.transformer.wte), tokenizer)
    captum_input = TextTokenInput(prompt_text, tokenizer)
    theirs: Any = inseq.load_model(model, "saliency", tokenizer=tokenizer)
    whole = torch.tensor([[*prompt, *output]])

    def forward() -> object:
        with torch.no_grad():
            return model(input_ids=whole, use_cache=False, logits_to_keep=1)

    return {
        "forward": forward,
        "attribution": lambda: explain(ours, prompt_text, output=output, method="saliency", units="token"),
        "Captum": lambda: captum.attribute(captum_input, target=output_text),
        "Inseq": lambda: theirs.attribute(
            prompt_text, f"{prompt_text} {output_text}", show_progress=False, pretty_progress=False
        ),
    }


def measure(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, all of them taking turns; the first turn of each warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def main() -> None:
    """Prints one row per size: medians in F, and the ratio to each other library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    tokenizer = word_tokenizer(model.config.vocab_size)
    print(f"{'N':>4} {'T':>3} {'F (ms)':>7} {'attribution':>12} {'Captum':>9} {'Inseq':>9}   times as fast as")
    for n, t in SIZES:
        ids = torch.randint(4, model.config.vocab_size, (n + t,)).tolist()
        found = measure(contestants(model, tokenizer, ids[:n], ids[n:]), arguments.rounds)
        unit, ours = found["forward"], found["attribution"]
        passes = [f"{found[name] / unit:.1f} F" for name in ("attribution", "Captum", "Inseq")]
        ratios = [f"{name} {found[name] / ours:.1f}" for name in ("Captum", "Inseq")]
        print(f"{n:4d} {t:3d} {unit * 1000:7.1f} {passes[0]:>12} {passes[1]:>9} {passes[2]:>9}   {', '.join(ratios)}")


if __name__ == "__main__":
    main()
