"""The case study runs, and so do the calls exactly as users of the original notebook wrote them."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from tests import reference

NOTEBOOK = Path(__file__).parent.parent / "examples" / "gemma_case_study.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's own libraries
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_case_study_runs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    text = "".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert "How many apples does Sam have? -> The answer is 3." in text
    assert "␣apples" in text
    assert "Verdict: another thing counts in 0 of 2 scenarios, another person in 1." in text
    assert "Verdict: a number every time, and the same form. The second hypothesis holds." in text
    assert "leave_one_out: Sam, 3, Tom, Sam: held in part: necessary, not sufficient" in text
    assert "'does Sam' → 'does Tom'" in text
    errors = [
        o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs if o.output_type == "error"
    ]
    assert not errors


def test_the_case_study_is_kept_with_what_it_printed() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(cell.outputs for cell in notebook.cells if cell.cell_type == "code" and "show(" in cell.source[-20:])


def test_the_original_calls(tmp_path, demo, capsys: pytest.CaptureFixture[str]) -> None:
    """Code as users have it; only the name of the model is a folder, since tests have no network."""
    folder = str(tmp_path)
    demo.model.save_pretrained(folder)
    demo.tokenizer.save_pretrained(folder)

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from attribution.local_attribution import LocalLLMAttributor

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    embeddings = model.get_input_embeddings().weight.detach()

    input_string = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
    input_ids = tokenizer(input_string, return_tensors="pt")
    output = model.generate(**input_ids, max_new_tokens=7)
    assert "The answer is 3." in tokenizer.decode(output[0])

    generation_length = 7
    attributor = LocalLLMAttributor(model=model, embeddings=embeddings, tokenizer=tokenizer)
    attr_scores, token_ids = attributor.compute_attributions(
        input_string=input_string,
        generation_length=generation_length,
    )
    word_list = tokenizer.convert_ids_to_tokens(token_ids)
    attributor.print_attributions(
        word_list=word_list,
        attr_scores=attr_scores,
        token_ids=token_ids,
        generation_length=generation_length,
    )

    expected, expected_ids = reference.classic_scores(model, input_ids["input_ids"][0].tolist(), generation_length)
    assert token_ids.tolist() == expected_ids
    assert torch.equal(token_ids[: output.shape[1]], output[0][: len(token_ids)])
    assert (attr_scores - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert "The answer is 3." in capsys.readouterr().out
