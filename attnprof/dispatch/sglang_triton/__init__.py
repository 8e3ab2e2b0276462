"""SGLang's Triton attention: decode in two stages, with a split count per request, and extend.

Checked against the wheel's own Python, its split counts against its device function in Triton's interpreter.
Resting on reading alone: that the server's context is as long as the call says, and log2 on a GPU, which may
round otherwise than IEEE's where its product with the SMs is all but a whole number.
"""
