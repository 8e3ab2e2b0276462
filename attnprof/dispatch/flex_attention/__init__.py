"""FlexAttention, which Inductor compiles."""
