"""What Qwen3Guard means: taxonomy, answers, grammar. Pure: no I/O, no clock."""
