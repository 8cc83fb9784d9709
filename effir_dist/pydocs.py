"""`python -m effir_dist.pydocs`."""

from effir_dist.core.errors import command
from effir_dist.data.pydocs import main

if __name__ == "__main__":
    command(main)()
