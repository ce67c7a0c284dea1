"""Whether every event got what it is owed: input and output topics, compared."""
