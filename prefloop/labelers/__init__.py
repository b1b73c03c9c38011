"""Who answers when no person does: the task world, and people simulated in it."""
