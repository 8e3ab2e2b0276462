"""Recording of attention calls as they enter a library, with the NVTX range around each."""
