"""The local stack as child processes: for `qwarden up`, the tests and the benchmarks."""
