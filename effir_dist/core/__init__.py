"""Settings, objectives, records and the run folder. No torch."""
