"""What a kernel's name states, whoever reads it: template arguments, or what a library writes into it."""

from __future__ import annotations

from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.names.template import template_fields


def stated_fields(name: str) -> tuple[tuple[str, object], ...]:
    """Field by field; () where the name states nothing, or is cut before it does."""
    signature = parse_kernel_name(name)
    read = signature.stated or template_fields(name) or signature.template()
    return tuple((field, value) for field, value in read if value is not None)
