"""The streamer: chunks of running sessions in, signals and verdicts out."""
