"""Ray: what fits the cluster, and what runs where."""

import os

from effir_dist.core.environment import share_the_machine

RAY_VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Read when ray is imported or workers start: the records are ours, so Tune keeps none; output goes to our log."""

share_the_machine()  # in workers too, before they load torch: their Ray may have been started without it
for name, value in RAY_VARIABLES.items():
    os.environ.setdefault(name, value)
