//! Answers as Linux 6.18 on x86-64 gave them, and questions as it took them.

use std::net::SocketAddr;

use super::*;

/// An IPv4 connection that was accepted but not fetched, in cgroup 0x4b48, with the socket storage that was asked for.
const MARKED: &str = "94000000 1400 0200 00000000 1f0c0000 \
    02 01 00 00 b107 af60 c6336401 000000000000000000000000 c6336402 000000000000000000000000 00000000 c120000000000000 \
    00000000 00000000 00000000 00000000 00000000 \
    05000800 00000000 08000f00 00000000 0c001500 484b000000000000 06001600 52000000 \
    18001480 14000180 08000200 57050000 08000300 01000000";
/// A listening IPv6 socket, without any storage.
const LISTENING: &str = "84000000 1400 0200 00000000 8a010000 \
    0a 0a 00 00 8f75 0000 20010db8005100000000000000000001 00000000000000000000000000000000 00000000 fd10000000000000 \
    00000000 01000000 80000000 00000000 23cd0c00 \
    05000800 00000000 05000b00 01000000 08000f00 00000000 0c001500 cc49000000000000 06001600 12000000";
const DONE: &str = "14000000 0300 0200 00000000 1f0c0000 00000000";
/// The answer to a `SOCK_DESTROY` that succeeded: errno 0, and the header of the question.
const DESTROYED: &str = "24000000 0200 0001 00000000 1f0c0000 00000000 48000000 1500 0500 00000000 00000000";

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u8> = hexadecimal.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn one(hexadecimal: &str) -> Answer {
    let mut answers = answers(Protocol::Tcp, &bytes(hexadecimal)).unwrap();
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

fn socket_of(hexadecimal: &str) -> Socket {
    match one(hexadecimal) {
        Answer::Socket(socket) => socket,
        other => panic!("{other:?}"),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_connection() {
    let socket = socket_of(MARKED);
    assert_eq!((socket.protocol, socket.state), (Protocol::Tcp, State::Established));
    assert_eq!(socket.local, address("198.51.100.1:45319"));
    assert_eq!(socket.remote, address("198.51.100.2:44896"));
    assert_eq!((socket.inode, socket.cookie, socket.cgroup, socket.marked), (0, 0x20c1, 0x4b48, true));
}

#[test]
fn a_listening_socket() {
    let socket = socket_of(LISTENING);
    assert_eq!(socket.state, State::Listen);
    assert_eq!(socket.local, address("[2001:db8:51::1]:36725"));
    assert_eq!(socket.remote, address("[::]:0"));
    assert_eq!((socket.inode, socket.cookie, socket.cgroup), (0x000c_cd23, 0x10fd, 0x49cc));
    assert!(!socket.marked);
}

#[test]
fn several_messages_in_one_datagram() {
    let datagram = [bytes(MARKED), bytes(LISTENING), bytes(DONE)].concat();
    let answers = answers(Protocol::Udp, &datagram).unwrap();
    assert!(matches!(&answers[..], [Answer::Socket(_), Answer::Socket(_), Answer::Done]), "{answers:?}");
}

#[test]
fn errors_and_their_absence() {
    assert_eq!(one(DESTROYED), Answer::Errno(0));
    let mut refused = bytes(DESTROYED);
    refused[HEADER..HEADER + 4].copy_from_slice(&(-2_i32).to_ne_bytes());
    assert_eq!(answers(Protocol::Tcp, &refused), Ok(vec![Answer::Errno(2)]));
    let mut broken_off = bytes(DONE);
    broken_off[HEADER..].copy_from_slice(&(-105_i32).to_ne_bytes());
    assert_eq!(answers(Protocol::Tcp, &broken_off), Ok(vec![Answer::Errno(105)]));
}

#[test]
fn ipv4_of_an_ipv6_socket_is_ipv4() {
    let mut mapped = bytes(LISTENING);
    let local = HEADER + 4 + 4;
    mapped[local..local + 16].copy_from_slice(&Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets());
    let found = answers(Protocol::Tcp, &mapped).unwrap();
    let Some(Answer::Socket(socket)) = found.first() else { panic!("{found:?}") };
    assert_eq!(socket.local, address("192.0.2.1:36725"));
    // It is still an IPv6 socket to the kernel.
    assert_eq!(socket.destroy()[HEADER], Family::V6 as u8);
}

#[test]
fn what_is_cut_is_refused_and_not_read_past_its_end() {
    for whole in [MARKED, LISTENING, DONE, DESTROYED] {
        let whole = bytes(whole);
        for length in 1..whole.len() {
            let _ = answers(Protocol::Tcp, &whole[..length]).expect_err("cut");
            // A message that says so of itself, too.
            let mut shorter = whole[..length].to_vec();
            if length >= 4 {
                shorter[..4].copy_from_slice(&(length as u32).to_ne_bytes());
                let _ = answers(Protocol::Tcp, &shorter);
            }
        }
    }
    assert_eq!(answers(Protocol::Tcp, &[0; 16]), Err(Malformed("length of a message")));
}

#[test]
fn questions_are_as_the_kernel_took_them() {
    let question = Question {
        family: Family::V4,
        protocol: Protocol::Tcp,
        states: &State::HELD,
        cgroups: &[0x49b9],
        storage: Some(28),
    };
    let taken = "68000000 1400 0103 00000000 00000000 02 06 00 00 b60f0000";
    let filter = "14000100 0d 0c 1400 b949000000000000 01 04 0400";
    let storage = "0c000280 08000100 1c000000";
    let expected = [bytes(taken), vec![0; ID], bytes(filter), bytes(storage)].concat();
    assert_eq!(question.bytes(), expected);

    let socket = socket_of(MARKED);
    let destroy = socket.destroy();
    assert_eq!(destroy[..8], bytes("48000000 1500 0500"));
    assert_eq!(destroy[HEADER + 8..], bytes(MARKED)[HEADER + 4..HEADER + 4 + ID]);
}

/// The kernel's own walk through a filter: `inet_diag_bc_run` of `net/ipv4/inet_diag.c`, for the two operations used here.
fn runs(filter: &[u8], cgroup: u64) -> bool {
    let mut at = 0;
    while at < filter.len() {
        let (code, yes, no) =
            (filter[at], usize::from(filter[at + 1]), usize::from(u16_at(filter, at + 2).unwrap()));
        let holds = code == INET_DIAG_BC_CGROUP_COND
            && u64::from_ne_bytes(*filter[at + 4..].first_chunk().unwrap()) == cgroup;
        at += if holds { yes } else { no };
    }
    at == filter.len()
}

#[test]
fn a_filter_takes_each_of_its_cgroups_and_no_other() {
    let cgroups: Vec<u64> = (1..=600).map(|id| id * 7).collect();
    for count in [1, 2, 3, MAX_CONDITIONS] {
        let filter = filter(&cgroups[..count]);
        for (index, cgroup) in cgroups.iter().enumerate() {
            assert_eq!(runs(&filter, *cgroup), index < count, "{count} cgroups, {cgroup}");
        }
        assert!(!runs(&filter, 0));
    }
    let asked = |cgroups| Question {
        family: Family::V6,
        protocol: Protocol::Udp,
        states: &State::HELD,
        cgroups,
        storage: None,
    };
    assert_eq!(asked(&cgroups).bytes().len(), HEADER + 8 + ID, "too many: the reader compares");
    assert_eq!(asked(&[]).bytes().len(), HEADER + 8 + ID);
}
