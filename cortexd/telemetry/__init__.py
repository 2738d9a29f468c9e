"""What each request and the fleet are measured by: Prometheus and one log line."""
