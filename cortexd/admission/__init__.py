"""Which clients and requests come in: limits by open files, by time and by the reactor's delay."""
