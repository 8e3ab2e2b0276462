"""Which version of ``hopper/`` an installed flash_attn_3 is, told by its flash_attn_interface.py.

The package's own version does not tell: every build up to 3.0.0 says 3.0.0b1. The marks are from all states
of the file in upstream's main branch (tests/data/golden/fa3_interfaces.jsonl).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

_ARGUMENTS = 34  # of the extension's fwd, from April 2025 on


@dataclass(frozen=True, slots=True)
class Interface:
    """What a flash_attn_interface.py is from.

    ``version`` is what its launches are predicted as, None where no rules are known; ``source`` names the
    state, to be read after "it has the interface of".
    """

    version: str | None
    source: str


BEFORE_2_7_3 = Interface(None, "a version before 2.7.3")
V2_7 = Interface("2.7.4", "2.7.3 to 2.7.4.post1")
BEFORE_2_8_0 = Interface(None, "a commit between 2.7.4.post1 and 2.8.0")
V2_8 = Interface("2.8.3", "2.8.0 to 2.8.3.post1")
AUGUST_2025 = Interface(None, "August 2025, in which it launched now as 2.8.3, now as 3.0.0")
BEFORE_3_0_0 = Interface("3.0.0", "a commit between 2.8.3 and 3.0.0 that launches as 3.0.0")
V3_0 = Interface("3.0.0", "3.0.0")
UNKNOWN = Interface(None, "no known version")


def identify(source: str) -> Interface:
    """The state that the text of a flash_attn_interface.py is from."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return UNKNOWN
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    if "flashattn_hopper_cuda" in imported:
        return BEFORE_2_7_3
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_forward(node.func)]
    if len(calls) != 1:
        return UNKNOWN
    given = {argument.id for argument in calls[0].args if isinstance(argument, ast.Name)}
    if "flash_attn_3_cuda" in imported:
        return V2_7 if "sink_token_length" in given and "qv" not in given else BEFORE_2_8_0
    if "flash_attn_3._C" not in imported or len(calls[0].args) != _ARGUMENTS:
        return UNKNOWN
    if "return_attn_probs" in _parameters(tree, "flash_attn_func"):
        return V3_0 if "flash_attn_3_gpu" in _assigned(tree) else BEFORE_3_0_0
    return AUGUST_2025 if _sizes_lengths_by_q(tree) else V2_8


def _is_forward(function: ast.expr) -> bool:
    return (
        isinstance(function, ast.Attribute)
        and function.attr == "fwd"
        and isinstance(function.value, ast.Name)
        and function.value.id in ("flash_attn_3_cuda", "flash_attn_3_gpu")
    )


def _parameters(tree: ast.Module, function: str) -> set[str]:
    found = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return {argument.arg for node in found for argument in node.args.args}


def _assigned(tree: ast.Module) -> set[str]:
    """Every name that is assigned anywhere."""
    return {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _sizes_lengths_by_q(tree: ast.Module) -> bool:
    """Whether one length for a whole batch is spread over q's batch, not the cache's: since 2025-08-15."""
    return any(
        isinstance(node, ast.Call) and ast.unparse(node).startswith("torch.full((q.shape[0],)")
        for node in ast.walk(tree)
    )
