"""What all services must know within seconds, as it stands on `moderation.control`."""
