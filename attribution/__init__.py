"""Which parts of a prompt made a language model write what it wrote.

    import attribution as at

    result = at.explain("demo", "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?")
    print(result)

Importing this package loads neither torch nor transformers: each name below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attribution.absence import Replace
    from attribution.api_attribution import OpenAIAttributor
    from attribution.errors import AttributionError
    from attribution.estimate import Estimate
    from attribution.experiments.comparison import compare
    from attribution.experiments.counterfactual import counterfactuals
    from attribution.experiments.edits import Edit
    from attribution.experiments.verification import verify
    from attribution.experiments.what_if import whatif
    from attribution.explainer import explain
    from attribution.faithfulness.contenders import Scorer
    from attribution.faithfulness.evaluation import evaluate
    from attribution.faithfulness.metric import list_metrics
    from attribution.faithfulness.samples import Sample
    from attribution.local_attribution import LocalLLMAttributor
    from attribution.method import Method, list_methods
    from attribution.models import load
    from attribution.models.api.limits import Limits
    from attribution.models.remote import RemoteModel
    from attribution.prompts.chat import Chat
    from attribution.prompts.rendered import Rendered
    from attribution.remote.plan import CallPlan
    from attribution.result import Attribution
    from attribution.target import Contrast, Semantic

__version__ = "0.1.0"

__all__ = [
    "Attribution",
    "AttributionError",
    "CallPlan",
    "Chat",
    "Contrast",
    "Edit",
    "Estimate",
    "Limits",
    "LocalLLMAttributor",
    "Method",
    "OpenAIAttributor",
    "RemoteModel",
    "Rendered",
    "Replace",
    "Sample",
    "Scorer",
    "Semantic",
    "compare",
    "counterfactuals",
    "evaluate",
    "explain",
    "list_methods",
    "list_metrics",
    "load",
    "verify",
    "whatif",
]

_HOMES = {
    "Attribution": "attribution.result",
    "AttributionError": "attribution.errors",
    "CallPlan": "attribution.remote.plan",
    "Chat": "attribution.prompts.chat",
    "Contrast": "attribution.target",
    "Edit": "attribution.experiments.edits",
    "Estimate": "attribution.estimate",
    "Limits": "attribution.models.api.limits",
    "LocalLLMAttributor": "attribution.local_attribution",
    "Method": "attribution.method",
    "OpenAIAttributor": "attribution.api_attribution",
    "RemoteModel": "attribution.models.remote",
    "Rendered": "attribution.prompts.rendered",
    "Replace": "attribution.absence",
    "Sample": "attribution.faithfulness.samples",
    "Scorer": "attribution.faithfulness.contenders",
    "Semantic": "attribution.target",
    "compare": "attribution.experiments.comparison",
    "counterfactuals": "attribution.experiments.counterfactual",
    "evaluate": "attribution.faithfulness.evaluation",
    "explain": "attribution.explainer",
    "list_methods": "attribution.method",
    "list_metrics": "attribution.faithfulness.metric",
    "load": "attribution.models",
    "verify": "attribution.experiments.verification",
    "whatif": "attribution.experiments.what_if",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'attribution' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
