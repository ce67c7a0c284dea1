"""Files instead of topics."""
