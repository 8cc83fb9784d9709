"""Settings, measures, errors, files and storage. No torch."""
