"""The pump, on real sockets."""
