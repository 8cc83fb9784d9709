"""A trial's model as one folder that other tools load."""
