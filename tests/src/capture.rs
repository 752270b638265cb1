//! A packet capture on all interfaces of this network namespace, which looks for texts in every frame as it passes.
//!
//! AF_PACKET, so it sees what really is on loopback and veth, headers included. Only hits are kept, so it may run for
//! as long as it takes beside other traffic. Frames the kernel dropped are counted: a capture with drops proves nothing.

use std::{
    collections::BTreeMap,
    fs::File,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    net::if_::if_indextoname,
    sched::{CloneFlags, setns},
    sys::{
        socket::{
            AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use crate::netns::Namespace;

/// Kernel buffer of the capture.
const BUFFER: usize = 64 * 1024 * 1024;

/// A running capture.
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Report>>>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Report {
    /// Frames, all of them.
    pub frames: u64,
    /// Frames that the kernel dropped for want of buffer.
    pub dropped: u64,
    /// IPv4 packets by source and destination, whatever they carry.
    pub packets: BTreeMap<(Ipv4Addr, Ipv4Addr), u64>,
    /// TCP frames with data by destination port.
    pub data_to_port: BTreeMap<u16, u64>,
    /// Frames that hold one of the texts.
    pub hits: Vec<Hit>,
}

/// A frame with one of the texts in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The interface.
    pub interface: String,
    /// Which text.
    pub text: String,
    /// TCP destination port, where it is TCP.
    pub destination_port: Option<u16>,
}

impl Capture {
    /// Starts to look for `texts`.
    pub fn start(texts: &[&str]) -> Result<Self> {
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
                .context("cannot open an AF_PACKET socket; it takes CAP_NET_RAW")?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("SO_RCVBUFFORCE")?;
        // The reader looks at its stop flag this often.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
        let stop = Arc::new(AtomicBool::new(false));
        let texts = texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || read(&socket, &texts, &stop)
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// The same in another network namespace.
    pub fn start_in(namespace: &Namespace, texts: &[&str]) -> Result<Self> {
        let at = File::open(Path::new("/run/netns").join(namespace.name()))?;
        // The namespace of a thread, which ends with it; the socket stays in it.
        let start = || {
            setns(at, CloneFlags::CLONE_NEWNET)?;
            Self::start(texts)
        };
        thread::scope(|scope| scope.spawn(start).join()).map_err(|_| anyhow!("no capture was started"))?
    }

    /// Stops, once everything that was sent before has been looked at.
    pub fn stop(mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("the capture was stopped already")?;
        thread.join().map_err(|_| anyhow!("the capture thread panicked"))?
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn read(socket: &OwnedFd, texts: &[String], stop: &AtomicBool) -> Result<Report> {
    let mut report = Report::default();
    let mut frame = vec![0; 256 * 1024];
    loop {
        // Looked at before the read: what was queued when we were told to stop is still read; what goes on passing is not waited for.
        let stopping = stop.load(Ordering::Acquire);
        if stopping {
            fcntl(socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("O_NONBLOCK")?;
        }
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) {
            Ok((length, address)) => {
                let index = address.map_or(0, |address| address.ifindex());
                look(&frame[..length], index, texts, &mut report);
            }
            Err(Errno::EAGAIN) if stopping => break,
            // ENETDOWN: some interface went down; the others are still captured.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => {}
            Err(error) => return Err(error).context("reading packets"),
        }
    }
    report.dropped = dropped(socket)?;
    Ok(report)
}

fn look(frame: &[u8], index: usize, texts: &[String], report: &mut Report) {
    report.frames += 1;
    if let Some(ends) = ends(frame) {
        *report.packets.entry(ends).or_default() += 1;
    }
    let tcp = tcp_data(frame);
    if let Some((port, true)) = tcp {
        *report.data_to_port.entry(port).or_default() += 1;
    }
    for text in texts {
        if !frame.windows(text.len()).any(|window| window == text.as_bytes()) {
            continue;
        }
        let interface = u32::try_from(index)
            .ok()
            .and_then(|index| if_indextoname(index).ok())
            .map_or_else(|| format!("interface {index}"), |name| name.to_string_lossy().into_owned());
        report.hits.push(Hit { interface, text: text.clone(), destination_port: tcp.map(|(port, _)| port) });
    }
}

/// Source and destination of an Ethernet frame with IPv4.
fn ends(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
    (frame.get(12..14)? == [0x08, 0x00]).then_some((address(26)?, address(30)?))
}

/// Destination port of an Ethernet frame with IPv4 or IPv6 (no extension headers) and TCP, and whether it has data.
fn tcp_data(frame: &[u8]) -> Option<(u16, bool)> {
    let (ether_type, packet) = (frame.get(12..14)?, frame.get(14..)?);
    let tcp = match ether_type {
        [0x08, 0x00] if packet.get(9) == Some(&6) => packet.get(usize::from(packet.first()? & 0x0f) * 4..)?,
        [0x86, 0xdd] if packet.get(6) == Some(&6) => packet.get(40..)?,
        _ => return None,
    };
    let port = u16::from_be_bytes([*tcp.get(2)?, *tcp.get(3)?]);
    let header = usize::from(*tcp.get(12)? >> 4) * 4;
    Some((port, tcp.len() > header))
}

/// `PACKET_STATISTICS`: what did not fit into the buffer.
fn dropped(socket: &OwnedFd) -> Result<u64> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `statistics`, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).context("PACKET_STATISTICS")?;
    Ok(u64::from(statistics.tp_drops))
}
