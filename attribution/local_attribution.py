"""The classic door: gradient attribution of a greedy continuation, as in the notebook this project began from.

from attribution.local_attribution import LocalLLMAttributor

attributor = LocalLLMAttributor(model=model, embeddings=embeddings, tokenizer=tokenizer)
attr_scores, token_ids = attributor.compute_attributions(input_string="...", generation_length=7)
attributor.print_attributions(
word_list=tokenizer.convert_ids_to_tokens(token_ids),
attr_scores=attr_scores,
token_ids=token_ids,
generation_length=7,
)
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

from attribution.checks import check_count
from attribution.errors import InputError
from attribution.local_problem import LocalProblem
from attribution.methods.saliency import Saliency
from attribution.models.local import LocalModel
from attribution.prompts.prompt import Encoding, Prompt, PromptUnit, check_prompt
from attribution.target import Target, named_target, read_output
from attribution.views.terminal.table import TableView

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


class LocalLLMAttributor:
    """How strongly the probability of each generated token reacts to every token before it.

    - `model`: a causal language model of transformers in evaluation mode. It is left as it was found.
    - `tokenizer`: the one that belongs to it.
    - `embeddings`: its input embedding matrix, `[vocabulary, embed]`. Kept for compatibility: scores are computed from
      the model itself, but a matrix that is not the model's own is refused, since whoever passes it expects otherwise.
    - `device`: kept for compatibility: must be None or where the model is, for the model is never moved.
    - `log_level`: of this module's logger.
    - `target`: `"prob"`, the probability of the token over the vocabulary; or `"published"`, the normalisation behind
      the tables once published with the notebook, whose softmax ran over the positions of the text instead of over the
      vocabulary. It is there for comparison only.

    Raises `InputError` where an argument is not as above.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        embeddings: Tensor,
        device: str | torch.device | None = None,
        log_level: int = logging.WARNING,
        *,
        target: Literal["prob", "published"] = "prob",
    ) -> None:
        log.setLevel(log_level)
        self._model = LocalModel(model, tokenizer)
        _check_embeddings(self._model, embeddings)
        if device is not None and not _is_device(device, self._model.device):
            raise InputError(
                f"Expected the device of the model, {self._model.device}, got {device}. "
                "Type model.to(...) first, or leave device out."
            )
        if target not in ("prob", "published"):
            raise InputError(f'Expected target="prob" or target="published", got {target!r}.')
        self._published = target == "published"

    def compute_attributions(
        self, input_string: str, generation_length: int = 5
    ) -> tuple[Float[Tensor, "output token"], Int[Tensor, " token"]]:
        """Scores and ids of prompt and greedy continuation, on the CPU.

        The continuation has exactly `generation_length` tokens, also past an end-of-sequence token. Row t of the
        scores, `[generation_length, n_input + generation_length]` in float32, holds for every position before output
        token t the L1 norm of the gradient of that token's probability with respect to the input embedding there, and
        0 from the token itself on. One forward and one batched backward give all rows.

        Raises `InputError` for an empty or non-string input and for a length that is no whole number from 1 on,
        `ContextWindowError` where both together are too long for the model, `ModelError` for a model in training mode
        or a tokenizer that does not fit, and `NonFiniteError` where the model computes NaN.
        """
        text = check_prompt(input_string)
        length = check_count("generation_length", generation_length)
        prompt = self._model.codec.check_ids(self._model.tokenizer(text)["input_ids"])
        if not prompt:
            raise InputError(f"Expected a prompt with at least one token, but the tokenizer made none of {text!r}.")
        self._model.check_length(len(prompt), length)
        output = self._model.generate(prompt, length, stop=False)
        log.info("generated %r", self._model.codec.decode(output))
        target = _softmax_over_positions(len(prompt)) if self._published else named_target("prob")
        problem = LocalProblem(self._model, _by_token(text, prompt), read_output(output, target), output_units=True)
        method = Saliency(norm="l1")
        method.check(problem)
        scores = method.attribute(problem, np.random.default_rng(0))
        return scores, torch.tensor([*prompt, *output])

    def print_attributions(
        self,
        word_list: Sequence[str],
        attr_scores: Float[Tensor, "output token"],
        token_ids: Int[Tensor, " token"],
        generation_length: int,
    ) -> None:
        """Prints the text with the output in another colour, then the scores: inputs down, outputs across.

        `word_list` names the tokens in the table, one name each; the other arguments are what `compute_attributions`
        took and gave. Raises `InputError` where they do not fit one another.
        """
        expected = (check_count("generation_length", generation_length), len(token_ids))
        scores = torch.as_tensor(attr_scores)
        if tuple(scores.shape) != expected or len(word_list) != len(token_ids):
            raise InputError(
                f"Expected {len(token_ids)} words and scores of shape {expected} for {len(token_ids)} ids and "
                f"generation_length={generation_length}, got {len(word_list)} words and scores of shape "
                f"{tuple(scores.shape)}. Pass what compute_attributions gave."
            )
        ids = list(self._model.codec.check_ids(token_ids))
        n_input = len(ids) - len(scores)
        view = TableView(
            prompt=self._model.codec.decode(ids[:n_input]),
            output="".join(self._model.codec.output_texts(ids[:n_input], ids[n_input:])),
            words=[self._name(word, i) for word, i in zip(word_list, ids, strict=True)],
            scores=scores.tolist(),
        )
        Console(highlight=False, markup=False, emoji=False).print(view)

    def cleanup(self) -> None:
        """Gives memory that is no longer used back to the device."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _name(self, word: str, token_id: int) -> str:
        """The word as the table shows it: for the tokenizer's own spelling ("Ġapples") the text it stands for."""
        if word != self._model.tokenizer.convert_ids_to_tokens([token_id])[0]:
            return str(word)
        # A tokenizer that marks spaces with "▁" drops the first one when it decodes a token alone.
        text = ("▁" if word.startswith("▁") else "") + self._model.codec.decode([token_id]).lstrip("▁")
        text = text.replace("▁ ", " ").replace("▁", " ")
        return word if "\N{REPLACEMENT CHARACTER}" in text or not text else text.replace(" ", "␣")


def _is_device(device: object, own: torch.device) -> bool:
    """Whether `device` names the device `own`; without an index it names every device of its type."""
    try:
        given = torch.device(cast(Any, device))
    except (RuntimeError, TypeError):
        return False
    return given.type == own.type and given.index in (None, own.index or 0)


def _check_embeddings(model: LocalModel, embeddings: Any) -> None:
    """Raises `InputError` where `embeddings` is not the model's own input embedding matrix."""
    own: Tensor = model.model.get_input_embeddings().weight.detach()
    remedy = "Pass embeddings=model.get_input_embeddings().weight.detach()."
    if not isinstance(embeddings, Tensor):
        raise InputError(f"Expected the embeddings as a tensor, got {type(embeddings).__name__}. {remedy}")
    if embeddings.shape != own.shape:
        raise InputError(f"Expected embeddings of shape {tuple(own.shape)}, got {tuple(embeddings.shape)}. {remedy}")
    if own.is_meta:  # offloaded: there is nothing to compare with
        return
    # By parts: the matrix of a large vocabulary is not worth a second copy.
    for mine, theirs in zip(own.split(65536), embeddings.detach().split(65536), strict=True):
        if not torch.equal(mine, theirs.to(mine)):
            raise InputError(f"Expected the embeddings of this model, got a matrix with other values. {remedy}")


def _by_token(text: str, ids: tuple[int, ...]) -> Prompt:
    """A prompt whose units are its tokens. Which characters they stand for is not asked, so any tokenizer will do."""
    nowhere = (0, 0)
    encoding = Encoding(ids, (nowhere,) * len(ids), (False,) * len(ids))
    return Prompt(text, encoding, tuple(PromptUnit(nowhere, (i, i + 1), special=False) for i in range(len(ids))))


def _softmax_over_positions(n_prompt: int) -> Target:
    """The published normalisation: of a token's logits at all positions so far, the share of the last one.

    Output t was read when the text had `n_prompt + t` positions, so the softmax runs over those.
    """

    def score(logits: Float[Tensor, "position vocabulary"], ids: Int[Tensor, " output"]) -> Float[Tensor, " output"]:
        shares = [logits[: n_prompt + t, token].softmax(0)[-1] for t, token in enumerate(ids)]
        return torch.stack(shares)

    return Target("published", "share of positions", score, reads_all_positions=True)
