"""Imports run downward only, and the light parts of the package stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "attribution"

# room -> the rooms it may import; a room may always import itself and `errors`, and the package for its version.
BELOW = {
    "errors": set(),
    "views": set(),
    "frames": set(),
    "files": set(),
    "parts": set(),
    "saved": set(),
    "surfaces": {"files", "views"},
    "checks": set(),
    "ranking": set(),
    "prompts": {"checks"},
    "absence": set(),
    "evaluations": set(),
    "target": {"prompts"},
    "outputs": {"prompts"},
    "models": {"checks", "files", "prompts", "target"},
    "layouts": {"absence", "models", "prompts", "target"},
    "engine": {"absence", "models", "prompts", "target"},
    "problem": {"checks", "engine", "evaluations"},
    "local_problem": {"problem", "evaluations", "layouts", "engine", "absence", "models", "prompts", "target"},
    "discovery": set(),
    "method": {"discovery", "problem"},
    "methods": {"method", "problem"},
    "result": {"views", "evaluations", "files", "frames", "outputs", "parts", "saved", "surfaces"},
    "assembly": {"method", "parts", "problem", "prompts", "result"},
    "estimate": {"local_problem", "method", "problem", "engine"},
    "question": {"checks", "models", "outputs", "prompts", "target"},
    "recorded": {*("absence", "local_problem", "models", "problem", "prompts", "question", "result", "target")},
    "remote": {
        *(
            "absence",
            "assembly",
            "checks",
            "estimate",
            "evaluations",
            "layouts",
            "method",
            "models",
            "outputs",
            "parts",
        ),
        *("problem", "prompts", "question", "recorded", "result", "target"),
    },
    "explainer": {
        *(
            "assembly",
            "parts",
            "remote",
            "result",
            "estimate",
            "method",
            "methods",
            "problem",
            "local_problem",
            "evaluations",
            "question",
        ),
        *("engine", "absence", "checks", "models", "outputs", "prompts", "recorded", "target"),
    },
    "experiments": {
        *(
            "assembly",
            "checks",
            "explainer",
            "frames",
            "local_problem",
            "method",
            "models",
            "outputs",
            "problem",
            "prompts",
        ),
        *("question", "recorded", "result", "surfaces", "target", "views"),
    },
    "planted": {
        "ranking",
        *("explainer", "local_problem", "models", "outputs", "parts", "problem", "prompts", "question", "result"),
        "target",
    },
    "faithfulness": {
        "discovery",
        "ranking",
        *("absence", "checks", "evaluations", "explainer", "files", "frames", "local_problem", "method", "methods"),
        *("models", "outputs", "planted", "problem", "prompts", "question", "recorded", "result", "surfaces"),
        *("target", "views"),
    },
    "local_attribution": {"checks", "models", "problem", "local_problem", "methods", "views", "prompts", "target"},
    "perturbation": {"absence", "models"},
    "experiment_logger": {"files", "frames", "models", "result", "views"},
    "api_attribution": {
        *("absence", "checks", "experiment_logger", "explainer", "models", "perturbation", "prompts", "remote"),
        *("result", "target"),
    },
    "printing": {"experiments", "files", "result"},
    "typed": {"absence", "experiments", "prompts", "target"},
    "commands": {
        *("checks", "explainer", "faithfulness", "files", "method", "models", "printing", "problem", "prompts"),
        *("question", "result", "surfaces", "typed", "views"),
    },
    "cli": {
        *("checks", "commands", "explainer", "experiments", "method", "models", "printing", "problem", "prompts"),
        *("question", "result", "typed", "views"),
    },
    "__init__": {
        *("absence", "api_attribution", "estimate", "experiments", "explainer", "faithfulness", "local_attribution"),
        *("method", "models", "prompts", "remote", "result", "target"),
    },
    "__main__": {"cli"},
}

THIRD_PARTY_OF_METHODS = {"torch", "numpy", "sklearn", "shapiq", "jaxtyping"}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(path: Path) -> set[str]:
    """Every module that the file imports, wherever in the file, also for type checking only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    here = room(path)
    assert here in BELOW, f"say in this test what {here} may import"
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("attribution.")}
    assert inside <= BELOW[here] | {here, "errors"}


def test_only_one_file_imports_transformers() -> None:
    importers = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(name.split(".")[0] == "transformers" for name in imports(path))
    }
    # The classic door names the type of what it takes.
    assert importers == {"models/local.py", "local_attribution.py"}


def test_what_asks_endpoints_knows_nothing_of_models() -> None:
    for path in (PACKAGE / "models" / "api").glob("*.py"):
        inside = {name for name in imports(path) if name.startswith("attribution.")}
        allowed = ("attribution.models.api", "attribution.errors", "attribution.checks", "attribution.files")
        assert all(name.startswith(allowed) for name in inside), path


def test_methods_import_little() -> None:
    for path in (PACKAGE / "methods").glob("*.py"):
        outside = {name.split(".")[0] for name in imports(path)} - {"attribution"} - set(sys.stdlib_module_names)
        assert outside <= THIRD_PARTY_OF_METHODS


def loaded_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_importing_the_package_is_light() -> None:
    assert not loaded_after("import attribution; dir(attribution)") & {"torch", "transformers", "numpy", "rich"}


def test_a_saved_result_opens_without_torch() -> None:
    assert not loaded_after("from attribution import Attribution") & {"torch", "transformers"}


@pytest.mark.parametrize("command", ["explain", "evaluate"])
def test_help_answers_without_torch(command: str) -> None:
    code = f"from attribution.cli import app\ntry:\n    app(['{command}', '--help'])\nexcept SystemExit:\n    pass"
    loaded = loaded_after(code)
    assert "typer" in loaded
    assert not loaded & {"torch", "transformers"}


def test_every_public_name_resolves() -> None:
    import attribution

    for name in attribution.__all__:
        assert getattr(attribution, name).__name__ == name
    assert set(attribution.__all__) <= set(dir(attribution))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = attribution.nonsense


def test_no_module_bears_the_name_of_a_public_function() -> None:
    import attribution

    modules = {path.stem for path in PACKAGE.glob("*.py")} | {p.name for p in PACKAGE.iterdir() if p.is_dir()}
    assert not modules & set(attribution.__all__)
