"""What a process that does not lead has in place of a run directory."""

from metacontrast.training.records import Record
from metacontrast.training.run import RunDirectory
from metacontrast.training.state import TrainState


class Follower(RunDirectory):
    """Writes nothing and restores nothing: the leader's state is sent to it."""

    def restore(self, state: TrainState) -> TrainState:
        """`state` as given."""
        return state

    def save(self, state: TrainState) -> None:
        """Leave it to the leader."""

    def keep(self, state: TrainState) -> None:
        """Leave it to the leader."""

    def record(self, record: Record) -> None:
        """Leave it to the leader."""
