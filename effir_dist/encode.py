"""`python -m effir_dist.encode`."""

from effir_dist.evaluate.encode import main

if __name__ == "__main__":
    main()
