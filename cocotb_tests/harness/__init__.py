"""What every bench shares: simulators, ports, drivers, monitors."""
