"""The one way to a guard: a port, the client of Triton, and the same engine in this process."""
