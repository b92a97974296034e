"""The stages of `tests.benchmarks.gpu`, each run in a process of its own."""
