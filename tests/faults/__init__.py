"""Things killed and broken, many times: `make faults`."""
