"""What a device is and what fits on it: profiles, probe, memory planner. Knows no model, only its plain numbers."""
