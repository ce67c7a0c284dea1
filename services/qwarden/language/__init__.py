"""Which language content is in: given, or detected."""
