"""`python -m effir_dist.report`."""

from effir_dist.core.errors import command
from effir_dist.report.command import main

command(main)()
