"""One folder per model family: its sizes, shapes and rules, as data and maths. Opens no file and runs no graph."""
