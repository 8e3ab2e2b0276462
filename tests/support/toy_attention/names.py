"""How the toy library's kernel is called."""

from __future__ import annotations

import re

from attnprof.dispatch.names.families import Family

KERNEL = "toy_flash_attention_kernel"
FAMILIES = (Family("toy-attention", "toy_fwd", re.compile(rf"{KERNEL}$")),)
