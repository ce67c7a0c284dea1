"""The undo: verdicts of a policy that was wrong, judged by another from their own scores."""
