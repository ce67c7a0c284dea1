"""qwarden: content moderation at the speed of a message queue."""

__version__ = "0.1.0"
