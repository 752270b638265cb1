//! What each privilege lets out of a workload of the host's network namespace, where no lock on a link can hold it: exactly
//! what `agent/ARCHITECTURE.md`, "What privileges still allow", says.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::rig::Rig;

/// What it takes nothing for: somebody outside who helps.
const ACCOMPLICE: [&str; 3] = [
    "tcp socket from before enrolment",
    "tcp socket passed in (SCM_RIGHTS)",
    "udp socket passed in (SCM_RIGHTS)",
];
/// What root may without a capability: the files of cgroups are its own.
const WRITABLE_CGROUPS: [&str; 1] = ["moved to the root cgroup"];

/// Capabilities, and what they let out beside the above.
const ALLOWED: [(&str, &[&str]); 6] = [
    ("-all", &[]),
    ("-all,+net_raw", &["af_packet", "af_packet past the queues", "af_xdp"]),
    ("-all,+net_admin", &["tun device, forwarded", "udp answer to a made-up caller"]),
    (
        "-all,+net_raw,+net_admin",
        &[
            "af_packet",
            "af_packet past the queues",
            "af_xdp",
            "tun device, forwarded",
            "udp answer to a made-up caller",
            "vxlan device",
        ],
    ),
    ("-all,+sys_ptrace", &["tcp socket taken (pidfd_getfd)"]),
    ("-all,+sys_admin,+bpf,+perfmon", &[]),
];

#[test]
fn a_privilege_lets_out_what_is_said_of_it_and_nothing_else() -> Result<()> {
    let Some(rig) = Rig::start("a_privilege_lets_out_what_is_said_of_it_and_nothing_else")? else {
        return Ok(());
    };
    for (capabilities, allowed) in ALLOWED {
        let battery = rig.battery_with(capabilities)?;
        assert_eq!(battery.report["watched"], true, "{}", battery.report);
        let escaped: BTreeSet<_> = battery.with("escaped").into_iter().collect();
        // What this kernel lacks is not tried at all.
        let absent = battery.with("not_available");
        let expected = ACCOMPLICE.iter().chain(&WRITABLE_CGROUPS).chain(allowed);
        let expected = expected.copied().filter(|vector| !absent.contains(vector)).collect();
        assert_eq!(escaped, expected, "{capabilities}: {:#?}", battery.vectors);
        assert_eq!(battery.with("unproven"), Vec::<&str>::new(), "{capabilities}");
    }
    Ok(())
}
