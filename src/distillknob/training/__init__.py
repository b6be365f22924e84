"""What the training stages share beside TRL's Trainers: configs, callbacks, checkpoints and rollouts."""
