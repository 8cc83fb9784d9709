"""Speed, searches and clusters, measured: each module says what it measures, and its command."""

from effir_dist.core.environment import share_the_machine

share_the_machine()
