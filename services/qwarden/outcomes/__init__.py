"""From what the guard said of a content to what is owed for it: shared by all who judge."""
