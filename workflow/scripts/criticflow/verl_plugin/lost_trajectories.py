"""Trajectories that were lost to errors in rollouts: counted, and an error where they are too many.

verl 0.9.1 gives the session of a rollout that raised the status ``failure``, trains on what the
step has left, and fills the batch up with copies without weight. So a reward worker that died would
take its share of every step from then on, and nothing would show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from criticflow.errors import UserError

METRIC = "criticflow/lost_trajectories"


@dataclass(frozen=True)
class Tolerance:
    """How many trajectories a step may lose.

    Args:
        share: of all that were asked for, in [0, 1).
        responses: to each prompt, by partition of verl's queue: ``train`` and ``val``.
    """

    share: float
    responses: Mapping[str, int]

    def check(
        self, partition: str, prompts: Iterable[str], keys: Iterable[str], errors: Iterable[str]
    ) -> int:
        """How many trajectories are missing.

        Args:
            partition: ``train`` or ``val``.
            prompts: verl's keys of the prompts that were asked for, ``uid``.
            keys: verl's keys of the trajectories that there are, ``uid_session_output``.
            errors: what the prompts' rollouts raised.

        Raises:
            UserError: more than the share, with what they raised.
        """
        wanted = set(prompts)
        found = {key.rsplit("_", 1)[0] for key in keys if key.split("_")[0] in wanted}
        asked = len(wanted) * self.responses[partition]
        lost = asked - len(found)
        if lost > self.share * asked:
            what = "trajectories of a step" if partition == "train" else "responses of a validation"
            reasons = "; ".join(dict.fromkeys(errors)) or "the log has the errors of the rollouts"
            raise UserError(
                f"{lost} of {asked} {what} were lost (train.lost_trajectories allows a share of "
                f"{self.share:g}): {reasons}"
            )
        return lost
