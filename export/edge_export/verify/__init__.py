"""The parity gate: does a bundle compute what its checkpoint does? Read `gate.py` first."""
