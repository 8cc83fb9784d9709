"""`--preflight`: on every node of a cluster, what a trial needs, before money is spent."""
