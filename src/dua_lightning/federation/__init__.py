"""The verbs between a real server and real devices."""
