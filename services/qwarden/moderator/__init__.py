"""The moderator: events in, verdicts and escalations out. Thin: it waits and acts."""
