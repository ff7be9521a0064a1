"""The webhook of the user, an optional sink for alerts alone."""

from rwp_dist.process.webhook import Alert, Webhook, document
from rwp_dist.tracking.sink import RunInfo, Sink


class WebhookSink(Sink):
    """Posts alerts to the address in ``RWP_WEBHOOK``, if it is set; no step waits for it."""

    name = "the webhook"
    optional = True

    def __init__(self, webhook: Webhook, run: str, first_step: int = 0) -> None:
        """``run``: its name. ``first_step``: updates that are done already."""
        self._webhook, self._run, self._step = webhook, run, first_step

    @classmethod
    def open(cls, run: RunInfo) -> "WebhookSink | None":
        """
        Raises:
            ConfigError: the variable holds no address.
        """
        if not run.settings.tracking.alerts:
            return None
        webhook = Webhook.from_environment(run.say)
        name = run.settings.run.name or run.run_dir.path.name
        return None if webhook is None else cls(webhook, name, run.first_step)

    def advance(self, step: int) -> None:
        self._step = step

    def alert(self, alert: Alert) -> None:
        self._webhook.post(document(alert, self._run, self._step))

    def close(self, state: str) -> None:
        """Wait some seconds for alerts that are on their way."""
        self._webhook.close()
