//! The witness: runs outside, sees every packet that comes in, and tells the battery what came directly.
//!
//! Answers HTTP on one TCP port: `GET /egret-verify/TOKEN` with the peer it sees, `GET /egret-verify/arrivals` with what
//! it got. Keeps nothing but arrivals, the newest few thousand.

use std::{collections::VecDeque, io, net::SocketAddr, os::fd::AsRawFd as _, sync::Arc, thread};

use anyhow::Context as _;
use nix::libc;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time,
};

use super::{
    PATIENCE,
    sniff::{self, Arrival},
};

/// Arrivals that are kept.
const KEPT: usize = 4096;
/// A longer request is nobody's of ours.
const REQUEST: usize = 8192;
/// Where it answers with the peer only.
pub(super) const PATH: &str = "/egret-verify/";
/// Where it answers with the arrivals, too.
pub(super) const ARRIVALS: &str = "/egret-verify/arrivals";

/// The answer to everything.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Testimony {
    /// Whom the witness sees on the other side of this connection.
    pub(super) peer: Option<SocketAddr>,
    /// The number that the next arrival will have.
    #[serde(default)]
    pub(super) next: u64,
    /// What it got, where that was asked.
    #[serde(default)]
    pub(super) arrivals: Vec<Numbered>,
}

/// An arrival, numbered in the order of arrival.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Numbered {
    pub(super) number: u64,
    #[serde(flatten)]
    pub(super) arrival: Arrival,
}

/// What arrived.
#[derive(Default)]
struct Record {
    next: u64,
    kept: VecDeque<Numbered>,
}

impl Record {
    fn add(&mut self, arrival: Arrival) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Numbered { number: self.next, arrival });
        self.next += 1;
    }

    fn testimony(&self, peer: SocketAddr, with_arrivals: bool) -> Testimony {
        let arrivals = if with_arrivals { self.kept.iter().cloned().collect() } else { Vec::new() };
        Testimony { peer: Some(peer), next: self.next, arrivals }
    }
}

type Arrivals = Arc<Mutex<Record>>;

/// Watches and answers until the process ends; `ready` is called when it does.
pub async fn run(address: SocketAddr, ready: impl FnOnce(SocketAddr)) -> anyhow::Result<()> {
    let packets = packets().context("packets cannot be watched: the witness needs root (CAP_NET_RAW)")?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let arrivals = Arrivals::default();
    thread::spawn({
        let arrivals = Arc::clone(&arrivals);
        move || watch(&packets, &arrivals)
    });
    ready(listener.local_addr()?);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Such as too many open files: passes when connections end.
                tracing::warn!("accept: {error}");
                time::sleep(PATIENCE).await;
                continue;
            }
        };
        let arrivals = Arc::clone(&arrivals);
        // A client that goes away or dawdles is its own loss.
        tokio::spawn(async move { drop(time::timeout(PATIENCE, answer(stream, peer, &arrivals)).await) });
    }
}

/// Every packet of this network namespace, without link headers.
fn packets() -> io::Result<Socket> {
    const ETH_P_ALL: u16 = 3;
    Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(ETH_P_ALL.to_be()))))
}

fn watch(packets: &Socket, arrivals: &Arrivals) {
    const PACKET_OUTGOING: u8 = 4;
    let mut packet = vec![0_u8; 65_536];
    loop {
        // SAFETY: an all-zero sockaddr_ll is a valid value.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: buffer and address live during the call, with their true lengths.
        let received = unsafe {
            libc::recvfrom(
                packets.as_raw_fd(),
                packet.as_mut_ptr().cast(),
                packet.len(),
                0,
                (&raw mut from).cast(),
                &raw mut length,
            )
        };
        // An interface that went down is an error once; the others are still watched.
        let Ok(received) = usize::try_from(received) else { continue };
        if from.sll_pkttype == PACKET_OUTGOING {
            continue;
        }
        if let Some(arrival) = sniff::observe(u16::from_be(from.sll_protocol), &packet[..received]) {
            arrivals.lock().add(arrival);
        }
    }
}

async fn answer(mut stream: TcpStream, peer: SocketAddr, arrivals: &Arrivals) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") && request.len() < REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let asked = request.windows(ARRIVALS.len()).any(|window| window == ARRIVALS.as_bytes());
    let body = serde_json::to_string(&arrivals.lock().testimony(peer, asked))?;
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::{Arrival, KEPT, Record};

    #[test]
    fn the_newest_arrivals_are_kept_under_their_numbers() {
        let mut record = Record::default();
        let arrival =
            Arrival { protocol: "tcp".to_owned(), source: [192, 0, 2, 1].into(), port: Some(1), token: None };
        for _ in 0..KEPT + 2 {
            record.add(arrival.clone());
        }
        let testimony = record.testimony(([192, 0, 2, 1], 1).into(), true);
        assert_eq!((testimony.arrivals.len(), testimony.arrivals[0].number), (KEPT, 2));
        assert_eq!(testimony.next, KEPT as u64 + 2);
        let text = serde_json::to_string(&testimony).unwrap();
        let back: super::Testimony = serde_json::from_str(&text).unwrap();
        assert_eq!(back.arrivals[0].arrival, arrival);
        assert!(record.testimony(([192, 0, 2, 1], 1).into(), false).arrivals.is_empty());
    }
}
