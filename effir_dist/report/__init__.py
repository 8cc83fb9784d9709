"""A run as tables, plots and one page."""
