"""What versions of vLLM's extensions are called here, beside the newest, "fa2" and "fa3"."""

COMMIT = "617264c1"
OLDER = f"fa3-{COMMIT}"  # FA3 before vllm 0.33.0: one template flag fewer
FA2_0_10, FA2_0_20, FA3_0_10, FA3_0_20 = "fa2-0.10.2", "fa2-0.20.2", "fa3-0.10.2", "fa3-0.20.2"
