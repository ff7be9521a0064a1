"""An alert in W&B about a run whose own process is dead: ``python -m rwp_dist.tracking.tell``.

The launcher starts it, because it imports no W&B itself. Nothing is printed and nothing raised: the
webhook has the same alert, and W&B's own page shows that the run has crashed.
"""

import sys
from contextlib import suppress

from rwp_dist.config.load import load_settings
from rwp_dist.process.webhook import Alert
from rwp_dist.record.directory import RunDir

TIMEOUT_S = 20
"""How long W&B may take to answer, in seconds."""

ALERT = """
mutation NotifyScriptableRunAlert($entityName: String!, $projectName: String!, $runName: String!,
        $title: String!, $text: String!, $severity: AlertSeverity = INFO) {
    notifyScriptableRunAlert(input: {entityName: $entityName, projectName: $projectName,
            runName: $runName, title: $title, text: $text, severity: $severity}) { success }
}
"""


def tell(run_dir: RunDir, alert: Alert) -> None:
    """Have W&B tell a person, if the run is there and a login is here.

    Raises:
        Exception: W&B cannot be reached, or refuses; any of its many.
    """
    tracking = load_settings(run_dir.config).tracking
    from rwp_dist.tracking.connection import has_login, quiet

    quiet()
    if not has_login():
        return
    import wandb

    api = wandb.Api(timeout=TIMEOUT_S)
    variables = {
        "entityName": tracking.entity or api.default_entity,
        "projectName": tracking.project,
        "runName": run_dir.wandb_id(),
        "title": alert.title,
        "text": alert.text,
        "severity": alert.level,
    }
    api._service_api.execute_graphql(ALERT, variables=variables, timeout=TIMEOUT_S)


def main() -> None:
    """RUN KIND TITLE TEXT LEVEL."""
    folder, kind, title, text, level = sys.argv[1:]
    with suppress(Exception):
        tell(RunDir(folder), Alert(kind, title, text, level))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
