"""Ray: what fits the cluster, and what runs where."""

from effir_dist.core.environment import share_the_machine

share_the_machine()  # in workers too, before they load torch: their Ray may have been started without it
