"""The engine behind a ZeroMQ socket, and the clients for it. The wire is docs/protocol.md."""
