"""`python -m effir_dist.importance`."""

from effir_dist.importance.command import main

main()
