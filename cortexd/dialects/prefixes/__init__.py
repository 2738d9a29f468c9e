"""What a prompt begins with, and the conversation that it belongs to."""
