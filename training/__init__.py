"""Train, distil and evaluate students. Needs the extra `training`."""
