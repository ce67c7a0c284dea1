"""The engine of Qwen3Guard-Stream: sessions that are judged token by token."""
