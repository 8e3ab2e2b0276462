"""The engines and libraries that people serve with: what each is hooked at, a file per family.

``hooks`` is the registry. Nothing here is imported before the module that it hooks is.
"""
