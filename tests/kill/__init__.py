"""Commands killed at random moments: what they leave is whole, or marked incomplete."""
