"""One trial: prune, train, score, record."""
