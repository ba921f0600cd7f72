"""Things that several tests share: the command line, tiny benchmarks, networks of every kind."""
