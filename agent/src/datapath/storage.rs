//! Workload policies: the values of the cgroup storage, one per attached cgroup, shared by all hooks. Called by `attach` and
//! `Capture::set_policy`.
//!
//! The key is the cgroup's inode alone (8 bytes), which aya's cgroup-storage type does not know; hence the raw call.

use std::{io, os::fd::OwnedFd};

use agent_common::Policy;

use super::{DnsListeners, WorkloadPolicy, syscall};

/// Writes the policy of a cgroup. The kernel replaces the value as a whole, so a running program sees the old or the new
/// one. ENOENT: no program is attached to the cgroup.
pub(super) fn write(policies: &OwnedFd, cgroup_inode: u64, policy: &WorkloadPolicy) -> io::Result<()> {
    syscall::update(policies, &cgroup_inode, &value(policy))
}

fn value(policy: &WorkloadPolicy) -> Policy {
    let value = Policy::new(policy.workload, policy.listener_v4, policy.listener_v6)
        .with_ports(policy.listener_ports)
        .without_route(policy.no_route_v4, policy.no_route_v6)
        .in_own_network(policy.own_network)
        .bypassed_when_down(policy.bypass_when_down)
        .dropping_older(policy.drops_older);
    match policy.dns {
        Some(DnsListeners { v4, v6 }) => value.with_dns(v4, v6),
        None => value,
    }
}
