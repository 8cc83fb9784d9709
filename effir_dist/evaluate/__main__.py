"""`python -m effir_dist.evaluate`."""

from effir_dist.evaluate.command import main

main()
