"""What must be true at the end, with real processes, files and sockets."""
