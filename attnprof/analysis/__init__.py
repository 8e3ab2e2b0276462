"""Questions asked of a timeline and of the dispatch."""
