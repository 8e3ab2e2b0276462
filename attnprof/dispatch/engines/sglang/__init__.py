"""SGLang: its default attention backend, and the call it makes."""
