"""`twodim bench`: workloads, isolated latencies and the speed of checking."""
