"""Speed and memory, measured. Apart from the tests: nothing here is ever asserted."""
