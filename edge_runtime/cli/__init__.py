"""The `edge-runtime` command, one file per subcommand."""
