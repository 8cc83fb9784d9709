"""`python -m effir_dist.preemption`."""

from effir_dist.training.preemption import main

if __name__ == "__main__":
    main()
