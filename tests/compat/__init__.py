"""Real programs under the library versions people have: a short suite, its environments, and their page."""
