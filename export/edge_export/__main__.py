"""`python -m edge_export` is `edge-export`."""

from edge_export.cli import app

app(prog_name="edge-export")
