"""`python -m effir_dist.search`."""

from effir_dist.search.command import main

main()
