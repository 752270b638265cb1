//! The maps of the lock on the link. Key, value, who writes, who reads; as in `maps`, which has those of the cgroup's hooks.
//!
//! The programs of a link refer to no cgroup storage: they belong to a device, not to a cgroup, and the kernel has none for
//! them. What they know of the workload is in [`LINKS`], by the index of the device.

use agent_common::{Endpoint, Flow, Heard, LinkSource, names};
use agent_ebpf::link::{FLOW_AGE, Frame, HEARD_AGE, Link, Spoken, spoken};
use aya_ebpf::{
    btf_maps::{HashMap, LruHashMap, PerCpuArray},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
};

/// Insert or replace.
const BPF_ANY: u64 = 0;

/// Key: index of the host's device. Value: the workload's number; none, or 0, refuses. Written by user space, read by both programs.
#[btf_map(name = "egret_links")]
static LINKS: HashMap<u32, u32, { names::LINKS_CAPACITY }> = HashMap::new();

/// Key: an address of a workload at a link. Written by user space, read by `link_out`.
#[btf_map(name = "egret_sources")]
static SOURCES: HashMap<LinkSource, u8, { names::SOURCES_CAPACITY }> = HashMap::new();

/// Key: a gateway. Written by user space, read by `link_out`.
#[btf_map(name = "egret_gateways")]
static GATEWAYS: HashMap<Endpoint, u8, { names::GATEWAYS_CAPACITY }> = HashMap::new();

/// Key: a TCP connection into a workload whose client has proved that it is there. Written by `link_in`, and by user space
/// with the connections that are older than the lock; read by `link_out`. Apart from [`HEARD`], so that a flood of SYNs or
/// datagrams from made-up addresses pushes no established connection out.
#[btf_map(name = "egret_flows")]
static FLOWS: LruHashMap<Flow, Heard, { names::FLOWS_CAPACITY }> = LruHashMap::new();

/// Key: whoever else has spoken to a workload by its link. Written by `link_in`, read by `link_out`.
#[btf_map(name = "egret_heard")]
static HEARD: LruHashMap<Flow, Heard, { names::HEARD_CAPACITY }> = LruHashMap::new();

/// Where a program keeps what it has read of a frame: too much for its stack. The only map that is not pinned: nothing in
/// it outlives a packet.
#[btf_map(name = "egret_frame")]
pub(crate) static FRAME: PerCpuArray<Frame, 1> = PerCpuArray::new();

/// The kernel's clock since its start.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: a plain helper.
    unsafe { bpf_ktime_get_ns() }
}

/// What is kept of a flow in one of the two tables. Another CPU may be writing it: at worst the times are mixed up.
macro_rules! kept {
    ($map:ident, $flow:expr) => {
        $map.get_ptr_mut($flow).map(|place| {
            // SAFETY: the kernel gave the pointer to a value, which lives as long as the program runs.
            (place, unsafe { place.read() })
        })
    };
}

/// The link behind a device of the host.
pub(crate) struct Locked {
    device: u32,
}

impl Locked {
    #[inline(always)]
    pub(crate) const fn new(device: u32) -> Self {
        Self { device }
    }

    /// Remembers that a peer has spoken. Should it fail, the answer is dropped.
    #[inline(always)]
    pub(crate) fn remember(&self, protocol: u8, local: Endpoint, peer: Endpoint) {
        let _ = HEARD.insert(Flow::new(self.device, protocol, local, peer), Heard::new(now()), BPF_ANY);
    }

    /// The same of a neighbour.
    #[inline(always)]
    pub(crate) fn remember_neighbour(&self, address: [u8; 16]) {
        let _ = HEARD.insert(Flow::neighbour(self.device, address), Heard::new(now()), BPF_ANY);
    }

    /// A TCP connection goes on: nothing that is not known. `proves` says whether the packet shows that its sender is who
    /// it says.
    #[inline(always)]
    pub(crate) fn goes_on(
        &self,
        protocol: u8,
        local: Endpoint,
        peer: Endpoint,
        proves: impl FnOnce(&Heard) -> bool,
    ) {
        let flow = Flow::new(self.device, protocol, local, peer);
        if let Some((place, heard)) = kept!(FLOWS, &flow) {
            // SAFETY: as in `kept`.
            unsafe { place.write(heard.again(now())) };
        } else if let Some((place, heard)) = kept!(HEARD, &flow) {
            let heard = heard.again(now());
            // SAFETY: as in `kept`.
            unsafe { place.write(heard) };
            if proves(&heard) {
                let _ = FLOWS.insert(flow, heard, BPF_ANY);
            }
        }
    }
}

impl Link for Locked {
    #[inline(always)]
    fn locked(&self) -> bool {
        // SAFETY: as in `kept`; four bytes, which change at once or not at all.
        LINKS.get_ptr(self.device).is_some_and(|workload| unsafe { workload.read() } != 0)
    }

    #[inline(always)]
    fn gateway(&self, destination: &Endpoint) -> bool {
        GATEWAYS.get_ptr(destination).is_some()
    }

    #[inline(always)]
    fn owns(&self, address: &[u8; 16]) -> bool {
        SOURCES.get_ptr(LinkSource::new(self.device, *address)).is_some()
    }

    #[inline(always)]
    fn flow(&self, protocol: u8, local: Endpoint, peer: Endpoint, accepts: Option<u32>) -> Spoken {
        let flow = Flow::new(self.device, protocol, local, peer);
        if let Some((_, heard)) = kept!(FLOWS, &flow) {
            return spoken(&heard, now(), FLOW_AGE);
        }
        let Some((place, heard)) = kept!(HEARD, &flow) else { return Spoken::Never };
        if let Some(sequence) = accepts {
            // SAFETY: as in `kept`.
            unsafe { place.write(heard.answered(sequence)) };
        }
        spoken(&heard, now(), HEARD_AGE)
    }

    #[inline(always)]
    fn neighbour(&self, address: &[u8; 16]) -> bool {
        kept!(HEARD, &Flow::neighbour(self.device, *address))
            .is_some_and(|(_, heard)| spoken(&heard, now(), HEARD_AGE) == Spoken::First)
    }
}
