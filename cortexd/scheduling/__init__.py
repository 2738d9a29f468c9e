"""Which request gets which replica, and which models come and go for it: pure."""
