"""From requests to streamed answers. Read `engine.py` first. Knows no sockets."""
