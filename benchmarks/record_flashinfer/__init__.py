"""Records what FlashInfer's released host code plans and launches, without a GPU."""
