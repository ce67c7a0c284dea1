"""How policies come into force: a service that follows the control topic, and what a person's
command writes to it."""
