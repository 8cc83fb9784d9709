"""`python -m effir_dist.negatives`."""

from effir_dist.training.negatives import main

if __name__ == "__main__":
    main()
