"""The storm: a fleet under kills, on a real broker, and what it may not do in it."""
