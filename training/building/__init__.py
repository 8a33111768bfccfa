"""What `training.build` does around a ladder: the data that it keeps, the plan, the choice, and the mistakes."""
