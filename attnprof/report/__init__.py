"""Text, figures and pages made from results; nothing here reads files."""
