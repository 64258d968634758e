"""The Ackline protocol: no socket, task, clock or randomness."""
