"""From a kernel's name to what it is, in every spelling that profilers print.

CUPTI and torch.profiler print ``128, false, ...> >``; nsys ``(int)128, (bool)0, ...>>``; ncu ``0`` and ``1``
with namespaces dropped; nsys's mangledName the symbol itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from attnprof.dispatch.names.arguments import literal, template_arguments
from attnprof.dispatch.names.families import NOT_ATTENTION, family_of, short_spelling, stated
from attnprof.dispatch.names.family import PLANNING, Role
from attnprof.dispatch.names.symbols import own_name

_PLAIN_FLAGS = (
    "Is_dropout",
    "Is_causal",
    "Is_local",
    "Has_alibi",
    "Is_even_MN",
    "Is_even_K",
    "Is_softcap",
    "Return_softmax",
)
_SPLIT_FLAGS = (
    "Is_causal",
    "Is_local",
    "Has_alibi",
    "Is_even_MN",
    "Is_even_K",
    "Is_softcap",
    "Split",
    "Append_KV",
)
# Arguments a version lacks, by how many booleans the name has.
_ABSENT = {
    8: (),
    7: ("Is_softcap",),
    6: ("Is_softcap", "Has_alibi"),
    5: ("Is_softcap", "Has_alibi", "Is_local"),
}
_FLAGS = {"fwd": _PLAIN_FLAGS, "fwd_splitkv": _SPLIT_FLAGS}
_LOCAL_MASKS = {"sliding or chunked": True, "causal": False, "dense": False}
_UNNAMED = ("(anonymous namespace)::", "<unnamed>::")
_ENABLE_IF = "std::enable_if<"
_DTYPES = {"half_t": "fp16", "bfloat16_t": "bf16"}
# What CUTLASS launches is the type that its kernel's template begins with.
_CUTLASS = re.compile(
    r"cutlass::(?:Kernel2?|device_kernel)<(?:\w+::){0,8}(?:enable_\w{1,80}<(?:\w+::){0,8})?(?P<kernel>\w+)"
)


@dataclass(frozen=True, slots=True)
class KernelSignature:
    """What a kernel's name says.

    ``family``, ``library`` and ``role`` as in ``families.py``; ``modelled`` where attnprof predicts this
    library's launches. ``stated`` is what a name of another library says, field by field. The template fields
    are None where the name is cut or is no FlashAttention-2 forward kernel.
    """

    library: str
    family: str
    kernel: str
    head_dim: int | None = None
    block_m: int | None = None
    block_n: int | None = None
    warps: int | None = None
    dtype: str | None = None
    flags: tuple[tuple[str, bool], ...] | None = None
    combine_block_m: int | None = None
    log_max_splits: int | None = None
    role: Role = ""
    stated: tuple[tuple[str, object], ...] = ()

    @property
    def is_attention(self) -> bool:
        """Whether it attends, forward or backward: what plans attention is of a library, and no attention."""
        return self.family != NOT_ATTENTION and self.role not in PLANNING

    @property
    def modelled(self) -> bool:
        return self.family in ("fwd", "fwd_splitkv", "fwd_splitkv_combine")

    @property
    def local(self) -> bool | None:
        """Whether the kernel was built for a sliding window; None where its name does not tell."""
        named = {**dict(self.stated), **dict(self.flags or ())}
        told = named.get("Is_local", named.get("sliding_window"))
        if isinstance(told, bool):
            return told
        return _LOCAL_MASKS.get(str(named.get("mask")))

    def flag(self, name: str) -> bool | None:
        """A template boolean by name; None where the name does not carry it."""
        return dict(self.flags or ()).get(name)

    def template(self) -> tuple[tuple[str, object], ...]:
        """All template fields by name, for comparing kernels whatever their spelling and namespace."""
        fields = ("head_dim", "block_m", "block_n", "warps", "dtype", "combine_block_m", "log_max_splits")
        return (*((field, getattr(self, field)) for field in fields), *(self.flags or ()))


@lru_cache(maxsize=16384)
def parse_kernel_name(name: str) -> KernelSignature:
    """Library, family and template arguments of a kernel name; unknown names are not attention."""
    family = family_of(name)
    if family is None:
        return KernelSignature("", NOT_ATTENTION, _base_name(name, of_family=False))
    kernel = short_spelling(family, name) or _base_name(name, of_family=True)
    if family.name in ("fwd", "fwd_splitkv", "fwd_splitkv_combine"):
        return replace(_flash_attention_2(name, family.library, family.name, kernel), role=family.role)
    return KernelSignature(family.library, family.name, kernel, role=family.role, stated=stated(family, name))


def is_attention_kernel(name: str) -> bool:
    """Whether a kernel of this name attends."""
    return parse_kernel_name(name).is_attention


def short_name(name: str) -> str:
    """The name without return type, namespaces, template and call arguments; of a wrapper, what it wraps."""
    return parse_kernel_name(name).kernel


def _base_name(name: str, *, of_family: bool) -> str:
    if not of_family and name.startswith("_Z"):
        return name
    wrapped = own_name(name) if of_family else _without_return_type(name)
    if not of_family and (inner := _CUTLASS.match(wrapped)):
        return inner["kernel"]
    head = re.split(r"[<(]", wrapped, maxsplit=1)[0].strip()
    before, _, base = head.rpartition("::")
    if base.lower() == "kernel" and before and not of_family:  # which says nothing by itself
        return f"{before.rpartition('::')[2]}::{base}"
    return base or name


def _without_return_type(name: str) -> str:
    """A function's name without what it returns, and without namespaces that have no name."""
    text = name.strip().removeprefix("void ")
    for unnamed in _UNNAMED:
        text = text.replace(unnamed, "")
    if not text.startswith(_ENABLE_IF):
        return text
    angles = parentheses = 0
    for at, letter in enumerate(text):
        parentheses += (letter == "(") - (letter == ")")
        angles += 0 if parentheses else (letter == "<") - (letter == ">")
        if letter == ">" and not angles and not parentheses:
            return text[at + 1 :].removeprefix("::type ")
    return text


def _flash_attention_2(name: str, library: str, family: str, kernel: str) -> KernelSignature:
    """A forward kernel of FlashAttention-2, with as much of its template as the name holds."""
    literals = _mangled_literals(name) if name.startswith("_Z") else _template_literals(name)
    bare = KernelSignature(library, family, kernel)
    if literals is None:
        return bare
    shape, dtype, arguments = literals
    if family == "fwd_splitkv_combine":
        if len(arguments) not in (2, 3):
            return bare
        even_k = (("Is_even_K", bool(arguments[-1])),)
        # Until 2.2.3 the combine kernel had no block_m argument.
        block_m = arguments[0] if len(arguments) == 3 else None
        return KernelSignature(
            library, family, kernel, *shape, dtype, even_k, block_m, arguments[-2],
        )  # fmt: skip
    absent = _ABSENT.get(len(arguments))
    if absent is None:
        return bare
    names = [flag for flag in _FLAGS[family] if flag not in absent]
    flags = tuple(zip(names, map(bool, arguments), strict=True))
    return KernelSignature(library, family, kernel, *shape, dtype, flags)


_Literals = tuple[tuple[int, int, int, int], str, list[int]]


def _template_literals(name: str) -> _Literals | None:
    """(head_dim, block_m, block_n, warps), dtype and the arguments after the traits, of a demangled name."""
    arguments = template_arguments(name)
    if not arguments:
        return None
    traits = template_arguments(arguments[0])
    rest = [literal(argument) for argument in arguments[1:]]
    if traits is None or len(traits) < 7:
        return None
    shape = [literal(argument) for argument in traits[:4]]
    element = traits[6].rpartition("::")[2].strip()
    dtype = _DTYPES.get(element, element)
    if None in rest or None in shape or not element.isidentifier():
        return None
    head_dim, block_m, block_n, warps = (int(value) for value in shape if value is not None)
    return (head_dim, block_m, block_n, warps), dtype, [int(value) for value in rest if value is not None]


def _mangled_literals(name: str) -> _Literals | None:
    """The same of an Itanium-mangled symbol: literals are ``Li128E`` and ``Lb0E``, never substituted."""
    literals = [int(value) for value in re.findall(r"L[ib]([0-9]{1,9})E", name)]
    dtype = next((ours for theirs, ours in _DTYPES.items() if theirs in name), None)
    # Six literals of Flash_fwd_kernel_traits, four of the Flash_kernel_traits inside it, then the rest.
    if len(literals) < 12 or dtype is None or "EEv" not in name:  # which ends the template
        return None
    head_dim, block_m, block_n, warps = literals[:4]
    return (head_dim, block_m, block_n, warps), dtype, literals[10:]
