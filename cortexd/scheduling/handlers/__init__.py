"""The handlers of the scheduler's events, by what the events are about."""
