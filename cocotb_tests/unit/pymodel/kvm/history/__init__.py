"""A VM with a host, vCPUs with TLBs and tasks that interleave: what the random histories of the TDP MMU run on."""
