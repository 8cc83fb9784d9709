"""`python -m effir_dist.export`."""

from effir_dist.export.command import main

main()
