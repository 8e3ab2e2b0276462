"""Files that anybody may have written, and files that are written whole."""
