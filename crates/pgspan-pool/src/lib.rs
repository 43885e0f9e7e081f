//! Server connections: endpoints, leases, cancel.
