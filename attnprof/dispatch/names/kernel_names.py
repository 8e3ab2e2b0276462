"""From a kernel's name to what it is, in every spelling that profilers print.

CUPTI and torch.profiler print ``128, false, ...> >``; nsys ``(int)128, (bool)0, ...>>``; ncu ``0`` and ``1``
with namespaces dropped; nsys's mangledName the symbol itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from attnprof.dispatch.names.families import NOT_ATTENTION, family_of, own_name

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
_DTYPES = {"half_t": "fp16", "bfloat16_t": "bf16"}


@dataclass(frozen=True, slots=True)
class KernelSignature:
    """What a kernel's name says.

    ``family`` and ``library`` as in ``families.py``; ``modelled`` where attnprof predicts this library's
    launches. The template fields are None where the name is cut or is no FlashAttention-2 forward kernel.
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

    @property
    def is_attention(self) -> bool:
        return self.family != NOT_ATTENTION

    @property
    def modelled(self) -> bool:
        return self.family in ("fwd", "fwd_splitkv", "fwd_splitkv_combine")

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
        return KernelSignature("", NOT_ATTENTION, _base_name(name, None))
    kernel = _base_name(name, family.pattern)
    if family.name in ("fwd", "fwd_splitkv", "fwd_splitkv_combine"):
        return _flash_attention_2(name, family.library, family.name, kernel)
    return KernelSignature(family.library, family.name, kernel)


def is_attention_kernel(name: str) -> bool:
    """Whether a kernel name belongs to an attention library."""
    return family_of(name) is not None


def short_name(name: str) -> str:
    """The name without return type, namespaces, template and call arguments; of a wrapper, what it wraps."""
    return parse_kernel_name(name).kernel


def _base_name(name: str, pattern: re.Pattern[str] | None) -> str:
    if name.startswith("_Z"):
        found = pattern.search(name) if pattern else None
        return found.group(0) if found else name
    wrapped = own_name(name) if pattern else name.strip().removeprefix("void ")
    head = re.split(r"[<(]", wrapped, maxsplit=1)[0].strip()
    return head.rpartition("::")[2] or name


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
    arguments = _template_arguments(name)
    if not arguments:
        return None
    traits = _template_arguments(arguments[0])
    rest = [_literal(argument) for argument in arguments[1:]]
    if traits is None or len(traits) < 7:
        return None
    shape = [_literal(argument) for argument in traits[:4]]
    dtype = _DTYPES.get(traits[6].rpartition("::")[2].strip())
    if None in rest or None in shape or dtype is None:
        return None
    head_dim, block_m, block_n, warps = (int(value) for value in shape if value is not None)
    return (head_dim, block_m, block_n, warps), dtype, [int(value) for value in rest if value is not None]


def _mangled_literals(name: str) -> _Literals | None:
    """The same of an Itanium-mangled symbol: literals are ``Li128E`` and ``Lb0E``, never substituted."""
    literals = [int(value) for value in re.findall(r"L[ib]([0-9]{1,9})E", name)]
    dtype = next((ours for theirs, ours in _DTYPES.items() if theirs in name), None)
    # Six literals of Flash_fwd_kernel_traits, four of the Flash_kernel_traits inside it, then the rest.
    if len(literals) < 12 or dtype is None:
        return None
    head_dim, block_m, block_n, warps = literals[:4]
    return (head_dim, block_m, block_n, warps), dtype, literals[10:]


def _literal(text: str) -> int | None:
    """The integer or boolean that a template argument spells."""
    text = re.sub(r"^\((?:int|bool|unsigned int)\)", "", text.strip())
    if text in ("true", "false"):
        return int(text == "true")
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _template_arguments(name: str) -> list[str] | None:
    """The top-level template arguments of the first ``<…>``; None where there is none or it is cut."""
    start = name.find("<")
    if start < 0:
        return None
    arguments, depth, begin = [], 0, start + 1
    for position in range(start, len(name)):
        character = name[position]
        if character in "<(":
            depth += 1
        elif character in ">)":
            depth -= 1
            if depth == 0:
                arguments.append(name[begin:position].strip())
                return arguments
        elif character == "," and depth == 1:
            arguments.append(name[begin:position].strip())
            begin = position + 1
    return None
