"""What the scheduler knows of real engines: their caches, and how long they load."""
