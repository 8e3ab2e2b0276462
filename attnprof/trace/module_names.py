"""Which kind of module a name is of: a class as a profiler names it, a place in a model as a range does.

Words that many models share, not the names of one: what none of them is in is of no known kind.
"""

from __future__ import annotations

import re
from functools import lru_cache

from attnprof.model import MODULE_KINDS

_LONGEST = 1024  # characters of a name; a longer one says nothing
# Of a class, at its end; the first that fits. A decoder layer and a whole model hold several kinds.
_CLASSES = (
    ("", r"(?:Model|Layers?|Decoder|Encoder|For[A-Z]\w{1,40})$"),
    ("sampling", r"(?:Sampler|LogitsProcessorList)$"),
    ("norm", r"[Nn]orm(?:alization)?(?:\d|Gated|Base|Quant)?$"),
    ("router", r"(?:Router|TopKGate|[Mm][Oo]EGate)$"),
    ("experts", r"(?:[Mm][Oo]E|Experts?|[Mm]o[Ee]Block|MixtureOfExperts)$"),
    ("MLP", r"(?:MLP|Mlp|[Ff]eed_?[Ff]orward|FFN?)(?:Block)?$|Intermediate$|(?<!Self)(?<!Attention)Output$"),
    ("attention", r"[Aa]tt(?:entio)?n(?:Block|Wrapper)?\d?$|SelfOutput$|AttentionOutput$|Rotary\w{0,40}$"),
    ("LM head", r"(?:LM|Lm)Head$|LogitsProcessor$|PredictionHead$"),
    ("embedding", r"Embeddings?$"),
)  # fmt: skip
# Of a place such as model.layers.3.mlp.gate: one part of it; the last part that fits counts.
_PARTS = (
    ("norm", r"\w{0,40}norm\d?|ln_\w{1,8}"),
    ("router", r"router|gate"),
    ("experts", r"experts|moe|block_sparse_moe"),
    ("MLP", r"mlp|ffn?|feed_?forward"),
    ("attention", r"(?:self_?|cross_?|linear_?)?att(?:entio)?n|rotary_emb"),
    ("LM head", r"lm_head|logits_processor"),
    ("embedding", r"embed_tokens|embeddings?|wte|wpe"),
    ("sampling", r"sampler|sampling"),
)  # fmt: skip
_CLASS_RULES = tuple((MODULE_KINDS.index(kind), re.compile(rule)) for kind, rule in _CLASSES)
_PART_RULES = tuple((MODULE_KINDS.index(kind), re.compile(rule)) for kind, rule in _PARTS)
_NUMBER = re.compile(r"_\d{1,9}$")
_MODULE_OF_HOOK = re.compile(r"'Module': '([\w.]{1,400})'")  # vLLM's and SGLang's layerwise NVTX ranges
_PLACE = re.compile(r"[\w.]{1,400}")
_DIRECTION = re.compile(r"\([A-Z]\)$")  # of a pass in training


@lru_cache(maxsize=4096)
def kind_of_class(name: str) -> int:
    """The kind of ``nn.Module: Qwen2MLP_3``, a place in MODULE_KINDS; 0 where it tells none."""
    if len(name) > _LONGEST:
        return 0
    own = _NUMBER.sub("", name).rpartition(" ")[2]
    return next((kind for kind, rule in _CLASS_RULES if rule.search(own)), 0)


def kind_of_range(text: str) -> int:
    """The same of an annotated range: a place in a model, or a kind's own name such as ``mlp(F)``."""
    if len(text) > _LONGEST:
        return 0
    hooked = _MODULE_OF_HOOK.search(text)
    place = hooked[1] if hooked else _DIRECTION.sub("", text.strip())
    if not _PLACE.fullmatch(place):
        return 0
    for part in reversed(place.lower().split(".")):
        for kind, rule in _PART_RULES:
            if rule.fullmatch(part):
                return _in_attention(kind, place)
    return 0


def _in_attention(kind: int, place: str) -> int:
    """A gate of attention routes nothing."""
    before = place.lower().rpartition(".")[0]
    if MODULE_KINDS[kind] == "router" and not any(word in before for word in ("mlp", "moe", "ffn", "feed")):
        return kind_of_range(before) if before else 0
    return kind
