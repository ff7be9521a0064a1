"""Which pass of an update comes next, and an error for one that is out of turn."""

from rwp_dist.base.errors import ConfigError


class Turns:
    """Counts the passes of a rank: 0, 1, ... in every update, then the end of the update."""

    def __init__(self, num_passes: int) -> None:
        """``num_passes``: passes of this rank in an update."""
        self.num_passes = num_passes
        self.taken = 0
        """Passes of this update that have begun."""
        self.inside = False
        """Whether one is under way."""

    @property
    def in_last_pass(self) -> bool:
        """Whether the last pass of the update is under way."""
        return self.inside and self.taken == self.num_passes

    def begin(self, micro_batch: int) -> None:
        """A pass begins.

        Raises:
            ConfigError: another one should.
        """
        if self.inside:
            problem = "this pass begins inside another"
        elif self.taken == self.num_passes:
            problem = "end_step was not called after the last pass of the update before"
        elif micro_batch != self.taken:
            problem = f"pass {micro_batch} comes where pass {self.taken} should"
        else:
            self.taken, self.inside = micro_batch + 1, True
            return
        passes = f"passes 0 to {self.num_passes - 1} in this order"
        raise ConfigError(
            problem,
            key="micro_batch",
            cure=f"take {passes if self.num_passes > 1 else 'one pass'} in every update, then step "
            "the optimizer and call end_step",
        )

    def end(self) -> None:
        """The pass is over."""
        self.inside = False

    def start_again(self) -> None:
        """The next pass is the first of an update."""
        self.taken = 0

    def end_update(self) -> None:
        """The update is over.

        Raises:
            ConfigError: it lacks passes.
        """
        if 0 < self.taken < self.num_passes:
            raise ConfigError(
                f"the update took {self.taken} of {self.num_passes} passes",
                key="micro_batch",
                cure=f"take passes 0 to {self.num_passes - 1} in every update",
            )
        self.start_again()
