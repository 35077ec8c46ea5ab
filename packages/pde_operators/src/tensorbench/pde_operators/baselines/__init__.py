"""What everybody has: U-Nets, bases of snapshots, branch and trunk networks, and adapters to libraries."""
