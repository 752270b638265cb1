//! An application that connects: the workload of the kernel tests. It reads commands from standard input, one a line, and
//! answers each with one line: `ok` and what getpeername says, or `errno` and the number. Sockets stay open until the next
//! command, so that the other side can accept them.
//!
//! - `connect ADDRESS…`: connects one socket to each address in turn, whatever comes of the earlier ones; answers for the last.
//! - `nonblocking ADDRESS`: the same with a non-blocking socket.
//! - `start ADDRESS`: the same, and does not wait; answers with what `connect()` said.
//! - `device NAME ADDRESS`: the same with a socket bound to a device.
//! - `shared PORT ADDRESS`: the same with a socket bound to a source port that others may share (`SO_REUSEPORT`).
//! - `storm COUNT ADDRESS`: connects and closes so often; answers with how many worked, and the errno of the first that did not.
//! - `play STEPS ADDRESS`: connects, takes the steps, and closes: `s5` sends so many bytes, `r5` receives so many, `e` receives to the
//!   end, `f` sends no more, `l` has the close be a reset. Answers with how many bytes came.
//! - `congestion ADDRESS`: connects, and answers with the congestion control of the connection.
//! - `hasty TEXT ADDRESS`: connects, writes and closes at once.
//! - `fastopen TEXT ADDRESS`: connects by sending (`MSG_FASTOPEN`), without a call of `connect()`.
//! - `datagram ADDRESS`: connects a UDP socket.
//! - `send TEXT ADDRESS`, `send-connected TEXT ADDRESS`: sends a datagram, without and with `connect()`.
//! - `start-routed HOP ADDRESS`, `send-routed HOP TEXT ADDRESS`: `start` and `send-connected`, source-routed by a hop.
//! - `forge SOURCE TEXT ADDRESS`, `start-forged SOURCE ADDRESS`: sends a datagram, begins to connect, from an address that is
//!   not ours.
//! - `ask TEXT ADDRESS`: the latter, and answers with what comes back.
//! - `ask-all TEXT ADDRESS…`, `ask-batch TEXT ADDRESS…`: sends a datagram to each address from one socket that is not connected,
//!   by `sendto()` and by one `sendmmsg()`; answers with the sources of what comes back. It is of IPv6 if one address is.
//! - `exchange udp HEX ADDRESS`, `exchange tcp HEX ADDRESS`: sends a DNS message, and answers with the one that comes back.
//! - `socket FAMILY TYPE PROTOCOL`: makes a socket, by the kernel's numbers.
//! - `frame DEVICE BYTES`, `frame-bypass DEVICE BYTES`: sends a frame, in hexadecimal, by a packet socket; the latter past the
//!   device's queue.
//! - `tun NAME`: makes a TUN device.
//! - `own-network`: moves into a network namespace of its own making.
//! - `listener ADDRESS`, `listener-multipath ADDRESS`, `server ADDRESS`: a TCP, a Multipath TCP, or a UDP socket bound to the
//!   address, which is the answer.
//! - `keep COMMAND…`: the same as the command, and its socket stays open until the end. What follows uses the last such socket:
//! - `dial ADDRESS`: connects it.
//! - `serve BYTES`: accepts a connection and writes so much to it. `talk TEXT`: writes and answers with what comes back.
//! - `tell TEXT`: sends it to whom the UDP socket is connected.
//! - `answer TEXT`, `answer-connected TEXT`: answers a datagram, from the same or from a second, connected socket.
//! - `write BYTES`: writes bytes, in hexadecimal: to a TUN device, a packet.
//! - `syn ADDRESS`: writes a SYN to a raw socket of TCP. `echo ADDRESS`: writes an echo request to a socket of ICMP.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
    time::Duration,
};

use egret_tests::hex;
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::socket::{
        AddressFamily, Backlog, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrStorage, bind, connect,
        getpeername, getsockopt, listen, sendmmsg, sendto, setsockopt, socket,
        sockopt::{BindToDevice, Linger, ReuseAddr, ReusePort, SocketError, TcpCongestion},
    },
};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> io::Result<()> {
    // Kept until the next command, and until the end.
    let mut open: Option<OwnedFd> = None;
    let mut kept: Vec<OwnedFd> = Vec::new();
    for line in io::stdin().lock().lines() {
        let line = line?;
        drop(open.take());
        let words: Vec<&str> = line.split(' ').collect();
        let (keep, command) = match &words[..] {
            ["keep", command @ ..] => (true, command),
            command => (false, command),
        };
        let answer = match run(command).or_else(|errno| match kept.last() {
            Some(socket) if errno == Errno::ENOSYS => with(socket, command),
            _ => Err(errno),
        }) {
            Ok((text, socket)) => {
                if keep {
                    kept.extend(socket);
                } else {
                    open = socket;
                }
                format!("ok {text}")
            }
            Err(errno) => format!("errno {}", errno as i32),
        };
        let mut output = io::stdout().lock();
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

type Outcome = Result<(String, Option<OwnedFd>), Errno>;

/// A command that makes a socket.
fn run(words: &[&str]) -> Outcome {
    match words {
        ["connect", addresses @ ..] => stream(addresses, SockFlag::empty(), None),
        ["nonblocking", address] => stream(&[address], SockFlag::SOCK_NONBLOCK, None),
        ["start", address] => {
            let address = parse(address)?;
            let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let socket = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)?;
            started(socket, &address.to_string())
        }
        ["device", name, address] => stream(&[address], SockFlag::empty(), Some(name)),
        ["shared", port, address] => {
            let address = parse(address)?;
            let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let socket = socket(family, SockType::Stream, SockFlag::empty(), None)?;
            setsockopt(&socket, ReusePort, &true)?;
            let source = SocketAddr::new(any(address).ip(), port.parse().map_err(|_| Errno::EINVAL)?);
            bind(socket.as_raw_fd(), &SockaddrStorage::from(source))?;
            connect(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
            peer(socket)
        }
        ["storm", count, address] => {
            let count: u32 = count.parse().map_err(|_| Errno::EINVAL)?;
            let outcomes = (0..count).map(|_| TcpStream::connect(*address).map(drop).map_err(errno));
            let (worked, failed): (Vec<_>, Vec<_>) = outcomes.partition(Result::is_ok);
            let first = failed.first().map_or(0, |failed| failed.map_or_else(|errno| errno as i32, |()| 0));
            Ok((format!("{} errno {first}", worked.len()), None))
        }
        ["play", steps @ .., address] => play(TcpStream::connect(*address).map_err(errno)?, steps),
        ["congestion", address] => {
            let stream = TcpStream::connect(*address).map_err(errno)?;
            let name = getsockopt(&stream, TcpCongestion)?;
            let name = name.to_string_lossy().trim_end_matches('\0').to_owned();
            Ok((name, Some(stream.into())))
        }
        ["hasty", text, address] => {
            let mut stream = TcpStream::connect(*address).map_err(errno)?;
            stream.write_all(text.as_bytes()).map_err(errno)?;
            Ok(("closed".to_owned(), None))
        }
        ["fastopen", text, address] => {
            let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
            let flags = MsgFlags::from_bits_retain(nix::libc::MSG_FASTOPEN);
            sendto(socket.as_raw_fd(), text.as_bytes(), &SockaddrStorage::from(parse(address)?), flags)?;
            peer(socket)
        }
        ["datagram", address] => {
            let socket = connected(any(parse(address)?), parse(address)?)?;
            Ok((socket.peer_addr().map_err(errno)?.to_string(), Some(socket.into())))
        }
        ["send", text, address] => {
            let address = parse(address)?;
            datagram(any(address))?.send_to(text.as_bytes(), address).map_err(errno)?;
            done()
        }
        ["send-connected", text, address] => {
            connected(any(parse(address)?), parse(address)?)?.send(text.as_bytes()).map_err(errno)?;
            done()
        }
        ["start-routed", hop, address] => {
            let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)?;
            source_route(&socket, hop)?;
            started(socket, address)
        }
        ["send-routed", hop, text, address] => {
            let address = parse(address)?;
            let socket = datagram(any(address))?;
            source_route(&socket, hop)?;
            socket.connect(address).map_err(errno)?;
            socket.send(text.as_bytes()).map_err(errno)?;
            done()
        }
        ["forge", source, text, address] => {
            let socket = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::empty(), None)?;
            free_bind(&socket)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(parse(source)?))?;
            UdpSocket::from(socket).send_to(text.as_bytes(), parse(address)?).map_err(errno)?;
            done()
        }
        ["start-forged", source, address] => {
            let socket = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)?;
            free_bind(&socket)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(parse(source)?))?;
            started(socket, address)
        }
        ["ask", text, address] => {
            let socket = connected(any(parse(address)?), parse(address)?)?;
            socket.send(text.as_bytes()).map_err(errno)?;
            let mut answer = [0; 64];
            let (length, _) = receive(&socket, &mut answer)?;
            Ok((String::from_utf8_lossy(&answer[..length]).into_owned(), None))
        }
        ["ask-all", text, addresses @ ..] => ask(text, addresses, |socket, text, to| {
            to.iter().try_for_each(|to| socket.send_to(text, to).map(drop).map_err(errno))
        }),
        ["ask-batch", text, addresses @ ..] => ask(text, addresses, |socket, text, to| {
            let to: Vec<_> = to.iter().map(|to| Some(SockaddrStorage::from(*to))).collect();
            let text = vec![[io::IoSlice::new(text)]; to.len()];
            let mut data = MultiHeaders::preallocate(to.len(), None);
            let sent = sendmmsg(socket.as_raw_fd(), &mut data, &text, &to, [], MsgFlags::empty())?;
            if sent.count() == to.len() { Ok(()) } else { Err(Errno::EMSGSIZE) }
        }),
        ["exchange", "udp", message, address] => {
            let address = parse(address)?;
            let socket = connected(any(address), address)?;
            socket.send(&hexadecimal(message)?).map_err(errno)?;
            let mut answer = vec![0; usize::from(u16::MAX)];
            let (length, _) = receive(&socket, &mut answer)?;
            Ok((hex::encode(&answer[..length]), None))
        }
        ["exchange", "tcp", message, address] => {
            let message = hexadecimal(message)?;
            let mut stream = TcpStream::connect(parse(address)?).map_err(errno)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(errno)?;
            let length = u16::try_from(message.len()).map_err(|_| Errno::EMSGSIZE)?;
            stream.write_all(&[&length.to_be_bytes()[..], &message].concat()).map_err(errno)?;
            let mut length = [0; 2];
            stream.read_exact(&mut length).map_err(errno)?;
            let mut answer = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut answer).map_err(errno)?;
            Ok((hex::encode(&answer), None))
        }
        ["socket", family, kind, protocol] => {
            let number = |text: &str| text.parse().map_err(|_| Errno::EINVAL);
            Ok(("made".to_owned(), Some(raw_socket(number(family)?, number(kind)?, number(protocol)?)?)))
        }
        ["frame", device, bytes] => frame(device, bytes, false),
        ["frame-bypass", device, bytes] => frame(device, bytes, true),
        ["tun", name] => tun(name),
        ["own-network"] => {
            unshare(CloneFlags::CLONE_NEWNET)?;
            done()
        }
        ["listener", address] => {
            let listener = TcpListener::bind(parse(address)?).map_err(errno)?;
            Ok((listener.local_addr().map_err(errno)?.to_string(), Some(listener.into())))
        }
        ["listener-multipath", address] => {
            let address = parse(address)?;
            let family = if address.is_ipv4() { nix::libc::AF_INET } else { nix::libc::AF_INET6 };
            let socket = raw_socket(family, nix::libc::SOCK_STREAM, nix::libc::IPPROTO_MPTCP)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
            listen(&socket, Backlog::MAXCONN)?;
            let listener = TcpListener::from(socket);
            Ok((listener.local_addr().map_err(errno)?.to_string(), Some(listener.into())))
        }
        ["server", address] => {
            let socket = datagram(parse(address)?)?;
            Ok((socket.local_addr().map_err(errno)?.to_string(), Some(socket.into())))
        }
        _ => Err(Errno::ENOSYS),
    }
}

fn play(mut stream: TcpStream, steps: &[&str]) -> Outcome {
    stream.set_read_timeout(Some(PATIENCE)).map_err(errno)?;
    let mut came = 0;
    for step in steps {
        let (what, number) = step.split_at(1);
        let number = || number.parse::<usize>().map_err(|_| Errno::EINVAL);
        match what {
            "s" => stream.write_all(&vec![b'x'; number()?]).map_err(errno)?,
            "r" => {
                let mut bytes = vec![0; number()?];
                stream.read_exact(&mut bytes).map_err(errno)?;
                came += bytes.len();
            }
            // A reset is an end, too.
            "e" => came += stream.read_to_end(&mut Vec::new()).unwrap_or_default(),
            "f" => stream.shutdown(Shutdown::Write).map_err(errno)?,
            "l" => setsockopt(&stream, Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?,
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok((came.to_string(), None))
}

/// Sends to all from one socket, and answers with the sources of what comes back, in any order of arrival.
fn ask(
    text: &str,
    addresses: &[&str],
    send: impl Fn(&UdpSocket, &[u8], &[SocketAddr]) -> Result<(), Errno>,
) -> Outcome {
    let addresses: Vec<_> = addresses.iter().map(|address| parse(address)).collect::<Result<_, _>>()?;
    let one_of_v6 = addresses.iter().find(|address| address.is_ipv6());
    let first = one_of_v6.or(addresses.first()).ok_or(Errno::EINVAL)?;
    let socket = datagram(any(*first))?;
    send(&socket, text.as_bytes(), &addresses)?;
    let mut answers = Vec::new();
    for _ in &addresses {
        let mut answer = [0; 64];
        let (length, source) = receive(&socket, &mut answer)?;
        answers.push(format!("{} from {source}", String::from_utf8_lossy(&answer[..length])));
    }
    answers.sort();
    Ok((answers.join(", "), None))
}

/// A command for the last socket that was kept.
fn with(socket: &OwnedFd, words: &[&str]) -> Outcome {
    let copy = socket.try_clone().map_err(errno)?;
    match words {
        ["serve", bytes] => {
            let bytes = bytes.parse().map_err(|_| Errno::EINVAL)?;
            let (mut stream, _) = TcpListener::from(copy).accept().map_err(errno)?;
            stream.write_all(&vec![b'x'; bytes]).map_err(errno)?;
            done()
        }
        ["dial", address] => {
            connect(copy.as_raw_fd(), &SockaddrStorage::from(parse(address)?))?;
            peer(copy)
        }
        ["talk", text] => {
            let mut stream = TcpStream::from(copy);
            stream.set_read_timeout(Some(PATIENCE)).map_err(errno)?;
            stream.write_all(text.as_bytes()).map_err(errno)?;
            let mut answer = [0; 64];
            let length = stream.read(&mut answer).map_err(errno)?;
            Ok((String::from_utf8_lossy(&answer[..length]).into_owned(), None))
        }
        ["tell", text] => {
            UdpSocket::from(copy).send(text.as_bytes()).map_err(errno)?;
            done()
        }
        ["answer", text] => {
            let socket = UdpSocket::from(copy);
            let (_, peer) = receive(&socket, &mut [0; 64])?;
            socket.send_to(text.as_bytes(), peer).map_err(errno)?;
            done()
        }
        ["answer-connected", text] => {
            let socket = UdpSocket::from(copy);
            let (_, peer) = receive(&socket, &mut [0; 64])?;
            let second = connected(socket.local_addr().map_err(errno)?, peer)?;
            second.send(text.as_bytes()).map_err(errno)?;
            done()
        }
        ["write", bytes] => {
            nix::unistd::write(&copy, &hexadecimal(bytes)?)?;
            done()
        }
        ["syn", address] => {
            let address = parse(address)?;
            let [high, low] = address.port().to_be_bytes();
            // From port 4000, five words, SYN. Nobody gets far enough to look at the checksum.
            let header = [0x0f, 0xa0, high, low, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
            sendto(copy.as_raw_fd(), &header, &SockaddrStorage::from(address), MsgFlags::empty())?;
            done()
        }
        ["echo", address] => {
            let address = parse(address)?;
            let request = [if address.is_ipv4() { 8 } else { 128 }, 0, 0, 0, 0, 0, 0, 1];
            sendto(copy.as_raw_fd(), &request, &SockaddrStorage::from(address), MsgFlags::empty())?;
            done()
        }
        _ => Err(Errno::ENOSYS),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the outcome of a command that says nothing")]
fn done() -> Outcome {
    Ok(("done".to_owned(), None))
}

/// The unspecified address of the same family.
fn any(address: SocketAddr) -> SocketAddr {
    if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() }
}

/// A UDP socket that gives up receiving, and shares its port.
fn datagram(at: SocketAddr) -> Result<UdpSocket, Errno> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Datagram, SockFlag::empty(), None)?;
    setsockopt(&socket, ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).map_err(errno)?;
    Ok(socket)
}

/// A wait with a timeout is not taken up again by the kernel when something interrupts it.
fn receive(socket: &UdpSocket, bytes: &mut [u8]) -> Result<(usize, SocketAddr), Errno> {
    loop {
        match socket.recv_from(bytes).map_err(errno) {
            Err(Errno::EINTR) => {}
            received => return received,
        }
    }
}

fn connected(at: SocketAddr, to: SocketAddr) -> Result<UdpSocket, Errno> {
    let socket = datagram(at)?;
    socket.connect(to).map_err(errno)?;
    Ok(socket)
}

/// `socket()` with numbers that nix does not know.
fn raw_socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: plain numbers.
    let number = unsafe { nix::libc::socket(family, kind, protocol) };
    // SAFETY: made by the call above, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(Errno::result(number)?) })
}

/// Sends a frame as it is.
fn frame(device: &str, bytes: &str, bypass: bool) -> Outcome {
    let socket = raw_socket(nix::libc::AF_PACKET, nix::libc::SOCK_RAW, 0)?;
    if bypass {
        set_option(&socket, nix::libc::SOL_PACKET, nix::libc::PACKET_QDISC_BYPASS, &1_i32)?;
    }
    // SAFETY: an all-zero sockaddr_ll is a valid value.
    let mut to: nix::libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = nix::libc::AF_PACKET as u16;
    to.sll_ifindex = nix::net::if_::if_nametoindex(device)?.cast_signed();
    let bytes = hexadecimal(bytes)?;
    // SAFETY: bytes and address live during the call, with their true lengths.
    let sent = unsafe {
        nix::libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const to).cast(),
            size_of_val(&to) as nix::libc::socklen_t,
        )
    };
    Errno::result(sent)?;
    done()
}

/// A device whose packets are written and read by us (`linux/if_tun.h`).
fn tun(name: &str) -> Outcome {
    const TUNSETIFF: nix::libc::Ioctl = 0x4004_54ca;
    let device = std::fs::File::options().read(true).write(true).open("/dev/net/tun").map_err(errno)?;
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: nix::libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(15)) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (nix::libc::IFF_TUN | nix::libc::IFF_NO_PI) as i16;
    // SAFETY: reads and writes one ifreq, which lives during the call.
    Errno::result(unsafe { nix::libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    Ok(("made".to_owned(), Some(device.into())))
}

fn hexadecimal(text: &str) -> Result<Vec<u8>, Errno> {
    hex::decode(text).ok_or(Errno::EINVAL)
}

/// Loose source routing by one hop (RFC 791 §3.1), which needs no privilege.
fn source_route(socket: &impl AsRawFd, hop: &str) -> Result<(), Errno> {
    let [a, b, c, d] = hop.parse::<Ipv4Addr>().map_err(|_| Errno::EINVAL)?.octets();
    let option = [131_u8, 7, 4, a, b, c, d, 0];
    set_option(socket, nix::libc::IPPROTO_IP, nix::libc::IP_OPTIONS, &option)
}

/// Lets the socket be bound to any IPv6 address, which needs no privilege.
fn free_bind(socket: &impl AsRawFd) -> Result<(), Errno> {
    // `include/uapi/linux/in6.h`.
    const IPV6_FREEBIND: i32 = 78;
    set_option(socket, nix::libc::IPPROTO_IPV6, IPV6_FREEBIND, &1_i32)
}

/// An option that nix does not know.
fn set_option<T>(socket: &impl AsRawFd, level: i32, name: i32, value: &T) -> Result<(), Errno> {
    // SAFETY: pointer and length are those of `value`, which lives during the call.
    let result = unsafe {
        nix::libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as nix::libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// Begins to connect, and does not wait.
fn started(socket: OwnedFd, address: &str) -> Outcome {
    let outcome = connect(socket.as_raw_fd(), &SockaddrStorage::from(parse(address)?));
    let said = outcome.map_or_else(|e| format!("errno {}", e as i32), |()| "connected".to_owned());
    Ok((said, Some(socket)))
}

fn stream(addresses: &[&str], flags: SockFlag, device: Option<&str>) -> Outcome {
    let first = parse(addresses.first().ok_or(Errno::EINVAL)?)?;
    let family = if first.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, flags, None)?;
    if let Some(device) = device {
        setsockopt(&socket, BindToDevice, &device.into())?;
    }
    let mut outcome = Err(Errno::EINVAL);
    for address in addresses {
        outcome = connect(socket.as_raw_fd(), &SockaddrStorage::from(parse(address)?));
    }
    if outcome == Err(Errno::EINPROGRESS) {
        outcome = finish(&socket);
    }
    outcome?;
    peer(socket)
}

/// What getpeername says, with the socket to be kept.
fn peer(socket: OwnedFd) -> Outcome {
    let peer: SockaddrStorage = getpeername(socket.as_raw_fd())?;
    Ok((shown(&peer), Some(socket)))
}

/// Waits until a non-blocking `connect()` is done.
fn finish(socket: &OwnedFd) -> Result<(), Errno> {
    let mut poll = nix::libc::pollfd { fd: socket.as_raw_fd(), events: nix::libc::POLLOUT, revents: 0 };
    // SAFETY: one structure, which lives during the call.
    Errno::result(unsafe { nix::libc::poll(&raw mut poll, 1, 5000) })?;
    match getsockopt(socket, SocketError)? {
        0 => Ok(()),
        number => Err(Errno::from_raw(number)),
    }
}

/// As std writes it; v4-mapped addresses stay v6.
fn shown(address: &SockaddrStorage) -> String {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()).to_string());
    let v6 = || address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()).to_string());
    v4.or_else(v6).unwrap_or_default()
}

fn parse(text: &str) -> Result<SocketAddr, Errno> {
    text.parse().map_err(|_| Errno::EINVAL)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}
