"""Text that anybody may have written, made safe to show and to share."""
