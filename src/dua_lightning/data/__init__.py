"""Benchmarks: tasks, the server's data and the users', from public or embedded images."""
