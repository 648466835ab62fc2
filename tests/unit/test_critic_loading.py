"""A warm start's checkpoint is checked before any worker touches it."""

import pytest

from criticflow.errors import UserError
from criticflow.verl_plugin.critic_loading import critic_folder


def checkpoint(path, folder="critic", ranks=2):
    """A directory that looks like what ``ranks`` ranks of verl saved at step 7."""
    critic = path / "global_step_7" / folder
    critic.mkdir(parents=True)
    for rank in range(ranks):
        (critic / f"model_world_size_{ranks}_rank_{rank}.pt").touch()
    return critic


@pytest.mark.parametrize("folder", ["critic", "Critic"])
def test_both_spellings_are_found(tmp_path, folder):
    critic = checkpoint(tmp_path, folder)
    assert critic_folder(str(tmp_path / "global_step_7"), world_size=2) == critic


def test_a_path_without_a_step_is_refused(tmp_path):
    checkpoint(tmp_path)
    with pytest.raises(UserError, match="global_step_N"):
        critic_folder(str(tmp_path), world_size=2)
    with pytest.raises(UserError, match="global_step_N"):
        critic_folder(None, world_size=2)


def test_a_checkpoint_without_critic_is_refused(tmp_path):
    (tmp_path / "global_step_7" / "actor").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no critic"):
        critic_folder(str(tmp_path / "global_step_7"), world_size=2)


def test_another_world_size_names_the_command_that_helps(tmp_path):
    critic = checkpoint(tmp_path, ranks=4)
    with pytest.raises(UserError, match="written by 4 ranks, this run has 2") as error:
        critic_folder(str(tmp_path / "global_step_7"), world_size=2)
    assert f"convert_critic_to_hf.py --local_dir {critic} --target_dir" in str(error.value)
