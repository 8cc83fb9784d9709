"""Ray: what fits the cluster, and what runs where."""
